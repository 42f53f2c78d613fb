"""Tables of crons and of what their ticks did.

Source: REST contract part 30, sections 10 and 15.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Sequence,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base

PG_JOB_ID = Sequence("cron_job_id", schema=SCHEMA, metadata=Base.metadata)


class CronSchedule(Base):
    """A cron of an app.

    Attributes:
        source: ``api``, or ``manifest``: deleted when a later manifest does not list it.
        pg_job_id: the running number of its present schedule; None while it is disabled.
        anchor_at: creation, enabling or change of the schedule; nothing before it is caught up.
        last_tick_at: the latest tick of an interval schedule.
    """

    __tablename__ = "cron_schedules"
    __table_args__ = (
        UniqueConstraint("app_id", "name"),
        CheckConstraint("overlap_policy IN ('skip', 'queue')", name="overlap_policy"),
        CheckConstraint("source IN ('api', 'manifest')", name="source"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    app_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    schedule: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str | None] = mapped_column(Text)
    payload: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))  # Any: a JSON value
    overlap_policy: Mapped[str] = mapped_column(Text, server_default=text("'skip'"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    pg_job_id: Mapped[int | None] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(Text, server_default=text("'api'"))
    created_by: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="SET NULL"), index=True
    )
    anchor_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_tick_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class CronRun(Base):
    """One tick of a cron, or one manual trigger (``scheduled_for`` is null then)."""

    __tablename__ = "cron_runs"
    __table_args__ = (
        UniqueConstraint("cron_id", "scheduled_for"),
        CheckConstraint("status IN ('due', 'succeeded', 'skipped', 'failed')", name="status"),
        Index("ix_cron_runs_due", "cron_id", "runid", postgresql_where=text("status = 'due'")),
        Index("ix_cron_runs_cron_id_runid", "cron_id", "runid"),
        Index("ix_cron_runs_start_time", "start_time", postgresql_using="brin"),
    )

    runid: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    cron_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.cron_schedules.id", ondelete="CASCADE")
    )
    scheduled_for: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    status: Mapped[str] = mapped_column(Text)
    return_message: Mapped[str | None] = mapped_column(Text)
    start_time: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    end_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    msg_id: Mapped[int | None] = mapped_column(BigInteger)


class SchedulerState(Base):
    """The single row of the scheduler: the last minute whose ticks are written down."""

    __tablename__ = "scheduler_state"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_minute: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
