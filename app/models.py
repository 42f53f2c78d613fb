"""Every mapped class: the one metadata for Alembic and tests."""

from __future__ import annotations

from app.core.db import Base

__all__ = ["Base"]
