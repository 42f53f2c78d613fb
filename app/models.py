"""Every mapped class: the one metadata for Alembic and tests."""

from __future__ import annotations

from app.agents import models as agents_models
from app.apps import models as apps_models
from app.audit import models as audit_models
from app.audit import security_models
from app.auth import models as auth_models
from app.core import vault
from app.core.db import Base
from app.crons import models as crons_models
from app.data import models as data_models
from app.files import models as files_models
from app.hooks import models as hooks_models
from app.integrations import models as integrations_models
from app.jobs import models as jobs_models
from app.rbac import models as rbac_models
from app.workers import models as workers_models

__all__ = [
    "Base",
    "agents_models",
    "apps_models",
    "audit_models",
    "auth_models",
    "crons_models",
    "data_models",
    "files_models",
    "hooks_models",
    "integrations_models",
    "jobs_models",
    "rbac_models",
    "security_models",
    "vault",
    "workers_models",
]
