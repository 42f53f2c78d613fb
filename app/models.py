"""Every mapped class: the one metadata for Alembic and tests."""

from __future__ import annotations

from app.audit import security_models
from app.auth import models as auth_models
from app.core import vault
from app.core.db import Base
from app.rbac import models as rbac_models

__all__ = ["Base", "auth_models", "rbac_models", "security_models", "vault"]
