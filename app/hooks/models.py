"""Hooks on row changes, which a trigger reads, and webhooks with their deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
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


class Webhook(Base):
    """An address that services outside call; made by the manifest of its app.

    Token and signing secret are in the vault, scope ``webhook:{id}``.

    Attributes:
        method: the RPC method a call becomes, or ``agent``.
        durable: a call is queued as a job of the app instead of being waited for.
        token_hash: SHA-256 of the token, by which a call finds its webhook.
        created_by: the owner, in whose name the app works; None once that user is gone.
    """

    __tablename__ = "webhooks"
    __table_args__ = (UniqueConstraint("app_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    app_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"))
    name: Mapped[str]
    method: Mapped[str]
    durable: Mapped[bool] = mapped_column(server_default=text("false"))
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_by: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class WebhookDelivery(Base):
    """One call of a webhook that was let in. Written before anything is done about it.

    Attributes:
        status: ``received`` until it is known how it ended, or for ever when the process that
            worked on it died; ``accepted``: queued as a job or agent run.
        headers: lower-case names; without credentials of the sender.
        msg_id: the job it became.
        run_id: the agent run it became.
        redelivery_of: the delivery it repeats.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(
            "status IN ('received', 'succeeded', 'accepted', 'failed', 'refused')", name="status"
        ),
        Index(None, "webhook_id", "id"),
        Index(None, "received_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    webhook_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.webhooks.id", ondelete="CASCADE")
    )
    status: Mapped[str] = mapped_column(server_default=text("'received'"))
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    body: Mapped[bytes]
    error: Mapped[str | None]
    msg_id: Mapped[int | None] = mapped_column(BigInteger)
    run_id: Mapped[UUID | None]
    redelivery_of: Mapped[int | None] = mapped_column(BigInteger)
    received_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
