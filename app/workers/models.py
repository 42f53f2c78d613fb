"""Tables of deployed code and of the processes that run it.

Source: REST contract part 30, section 15.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class Deployment(Base):
    """One uploaded archive of an app's backend; at most one per app is current."""

    __tablename__ = "deployments"
    __table_args__ = (
        Index("ix_deployments_app_id_created_at", "app_id", "created_at"),
        Index(
            "uq_deployments_current",
            "app_id",
            unique=True,
            postgresql_where=text("is_current"),
        ),
        CheckConstraint("runtime IN ('python', 'js')", name="runtime"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    app_id: Mapped[str] = mapped_column(ForeignKey("trellis.apps.id", ondelete="CASCADE"))
    archive: Mapped[bytes] = mapped_column(deferred=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    entry_point: Mapped[str | None]
    runtime: Mapped[str | None]
    deployed_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    activated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    is_current: Mapped[bool] = mapped_column(server_default=text("false"))


class AppWorker(Base):
    """What is wanted of an app's worker, and the node that keeps it alive.

    Attributes:
        generation: raised by deploy, start, stop and changes of platform secrets.
        last_error: why the last start or deploy failed; cleared by the next good one.
    """

    __tablename__ = "app_workers"
    __table_args__ = (
        CheckConstraint("desired_state IN ('running', 'stopped')", name="desired_state"),
    )

    app_id: Mapped[str] = mapped_column(
        ForeignKey("trellis.apps.id", ondelete="CASCADE"), primary_key=True
    )
    desired_state: Mapped[str] = mapped_column(server_default=text("'stopped'"))
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    home_node: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None]


class WorkerInstance(Base):
    """State of an app on one node, as the node reported it last.

    Attributes:
        sandbox: protections of its process that are on.
    """

    __tablename__ = "worker_instances"

    node: Mapped[str] = mapped_column(primary_key=True)
    app_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    slot: Mapped[int] = mapped_column(primary_key=True, server_default=text("0"))
    pid: Mapped[int | None]
    status: Mapped[str]
    deployment_id: Mapped[UUID | None]
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    restarts: Mapped[int] = mapped_column(server_default=text("0"))
    last_crash_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None]
    sandbox: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    heartbeat_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
