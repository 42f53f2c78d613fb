"""The table of row changes. It is written by a trigger and never by Python."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, Index, func
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class AuditEntry(Base):
    """One change of one row of an app's table. Rows outlive the app and the users they name."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index(None, "table_schema", "table_name", "id"),
        Index(None, "record_id"),
        Index(None, "changed_at", postgresql_using="brin"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    table_schema: Mapped[str]
    table_name: Mapped[str]
    record_id: Mapped[str]
    operation: Mapped[str]
    old_record: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # Any: JSON values
    new_record: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # Any: JSON values
    actor_uid: Mapped[UUID | None]
    delegator_uid: Mapped[UUID | None]
    trigger_ref: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
