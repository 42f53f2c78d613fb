"""Installed apps."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class App(Base):
    """An app and its normalised manifest.

    Attributes:
        status: ``installed``, or ``system`` for the built-in row ``core`` nobody sees.
        has_agent: an agent is registered for the app.
        has_frontend: a frontend with an index page is deployed.
        icon: id of the stored icon file.
    """

    __tablename__ = "apps"
    __table_args__ = (CheckConstraint("status IN ('installed', 'system')", name="status"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'installed'"))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSONB)  # Any: JSON values
    has_agent: Mapped[bool] = mapped_column(server_default=text("false"))
    has_frontend: Mapped[bool] = mapped_column(server_default=text("false"))
    icon: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
