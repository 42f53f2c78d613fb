"""Hooks: what happens when rows of an entity change. A trigger reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base


class Hook(Base):
    """A hook on an entity.

    Attributes:
        created_by: the owner, in whose name the job runs; None once that user is gone.
        made_by_app: the app whose manifest's ``trigger`` made it; None: made over the API.
    """

    __tablename__ = "hooks"
    __table_args__ = (
        CheckConstraint("operation IN ('INSERT', 'UPDATE', 'DELETE')", name="operation"),
        CheckConstraint("action_type IN ('job', 'agent')", name="action_type"),
        Index(None, "app_id", "entity", "operation"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    app_id: Mapped[str]
    entity: Mapped[str]
    operation: Mapped[str]
    action_type: Mapped[str]
    action_config: Mapped[dict[str, Any]] = mapped_column(
        JSONB, server_default=text("'{}'")
    )  # Any: JSON values
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_by: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="SET NULL"), index=True
    )
    made_by_app: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
