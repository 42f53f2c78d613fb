"""Tables of jobs: waiting and in flight, succeeded, failed.

Source: REST contract part 30, section 11; ADR 0004.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    DateTime,
    Identity,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class _Job:
    """Columns that every table of jobs has."""

    app_id: Mapped[str] = mapped_column(Text)
    route: Mapped[str] = mapped_column(Text, server_default=text("'worker'"))
    read_ct: Mapped[int] = mapped_column(server_default=text("0"))
    enqueued_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    last_read_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    vt: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    user_id: Mapped[UUID | None]
    source: Mapped[str] = mapped_column(Text)
    cron_id: Mapped[UUID | None]
    hook_id: Mapped[UUID | None]
    payload: Mapped[Any] = mapped_column(JSONB)  # Any: a JSON value
    progress: Mapped[float | None] = mapped_column(REAL)
    progress_note: Mapped[str | None] = mapped_column(Text)
    last_error: Mapped[str | None] = mapped_column(Text)


class QueuedJob(_Job, Base):
    """A job that waits or is being worked on.

    Attributes:
        fresh: neither delivered nor delayed yet; its place is told by priority and id alone.
        vt: hidden until then.
    """

    __tablename__ = "jobs_queue"
    __table_args__ = (
        Index(
            "ix_jobs_queue_fresh",
            "app_id",
            "route",
            text("priority DESC"),
            "msg_id",
            postgresql_where=text("fresh"),
        ),
        Index("ix_jobs_queue_hidden", "app_id", "route", "vt", postgresql_where=text("NOT fresh")),
        Index("ix_jobs_queue_app_id_msg_id", "app_id", "msg_id"),
        Index("ix_jobs_queue_cron_id", "cron_id", postgresql_where=text("cron_id IS NOT NULL")),
    )

    msg_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    fresh: Mapped[bool] = mapped_column(server_default=text("true"))


class ArchivedJob(_Job, Base):
    """A job that succeeded."""

    __tablename__ = "jobs_archive"
    __table_args__ = (
        Index("ix_jobs_archive_app_id_msg_id", "app_id", "msg_id"),
        Index("ix_jobs_archive_archived_at", "archived_at", postgresql_using="brin"),
    )

    msg_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    archived_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )


class DeadJob(_Job, Base):
    """A job that failed, with the reason."""

    __tablename__ = "jobs_dead"
    __table_args__ = (
        Index("ix_jobs_dead_app_id_msg_id", "app_id", "msg_id"),
        Index("ix_jobs_dead_failed_at", "failed_at"),
    )

    msg_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)
    failed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class JobKey(Base):
    """An idempotency key of an app and the job it stands for."""

    __tablename__ = "job_keys"
    __table_args__ = (PrimaryKeyConstraint("app_id", "idempotency_key"),)

    app_id: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)
    msg_id: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), index=True
    )
