"""Tables of channels: bots, who is linked, conversations, what came in and what goes out.

Source: REST contract part 40, section 7.1; ADR 0015.
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
    ForeignKeyConstraint,
    Identity,
    Index,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base

CHANNELS_ID = f"{SCHEMA}.channels.id"
JSON = dict[str, Any]  # Any: JSON values


def _now() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


def _time() -> Mapped[datetime | None]:
    return mapped_column(DateTime(timezone=True))


class Channel(Base):
    """One bot of a messaging provider.

    Attributes:
        config: what is not secret; tokens are in the vault, scope ``channel:<id>``.
    """

    __tablename__ = "channels"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    provider: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    config: Mapped[JSON] = mapped_column(JSONB, server_default=text("'{}'"))
    status: Mapped[str] = mapped_column(Text, server_default="inactive")
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("provider IN ('telegram', 'slack')", name="provider"),
        CheckConstraint("status IN ('active', 'inactive')", name="status"),
    )


class ChannelIdentity(Base):
    """An account at the provider that belongs to a user."""

    __tablename__ = "channel_identities"

    channel_id: Mapped[UUID] = mapped_column(
        ForeignKey(CHANNELS_ID, ondelete="CASCADE"), primary_key=True
    )
    external_user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="CASCADE"), index=True
    )
    linked_at: Mapped[datetime] = _now()


class ChannelSession(Base):
    """What a sender talks to in a chat; goes with the link and with the agent."""

    __tablename__ = "channel_sessions"

    channel_id: Mapped[UUID] = mapped_column(primary_key=True)
    external_chat_id: Mapped[str] = mapped_column(Text, primary_key=True)
    external_user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    app_id: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.agents.app_id", ondelete="CASCADE"), index=True
    )
    session_id: Mapped[UUID]

    __table_args__ = (
        ForeignKeyConstraint(
            ["channel_id", "external_user_id"],
            [
                f"{SCHEMA}.channel_identities.channel_id",
                f"{SCHEMA}.channel_identities.external_user_id",
            ],
            ondelete="CASCADE",
        ),
        Index("ix_channel_sessions_identity", "channel_id", "external_user_id"),
    )


class InboxEntry(Base):
    """Something a provider delivered. The queue of its lane, then a mark against repeats.

    A lane is one sender in one chat. Texts and commands of a lane are handled in the order of
    ``seq``, decisions at once.

    Attributes:
        data: what was said; emptied when the entry is done.
        state: ``waiting``, ``running`` (an agent works on it) or ``done``.
        leased_until: somebody fetches what the entry needs from elsewhere until then.
        failures: how often handling it broke down.
    """

    __tablename__ = "channel_inbox"

    channel_id: Mapped[UUID] = mapped_column(
        ForeignKey(CHANNELS_ID, ondelete="CASCADE"), primary_key=True
    )
    external_event_id: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    external_chat_id: Mapped[str] = mapped_column(Text)
    external_user_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    data: Mapped[JSON] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(Text, server_default="waiting")
    run_id: Mapped[UUID | None]
    session_id: Mapped[UUID | None]
    leased_until: Mapped[datetime | None] = _time()
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    received_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )

    __table_args__ = (
        CheckConstraint("kind IN ('text', 'command', 'decision')", name="kind"),
        CheckConstraint("state IN ('waiting', 'running', 'done')", name="state"),
        Index(
            "ix_channel_inbox_open",
            "channel_id",
            "external_chat_id",
            "external_user_id",
            "seq",
            postgresql_where=text("state <> 'done'"),
        ),
        Index(
            "ix_channel_inbox_run_id",
            "run_id",
            postgresql_where=text("run_id IS NOT NULL"),
        ),
        Index("ix_channel_inbox_received_at", "received_at"),
    )


class OutboxEntry(Base):
    """Something to be sent; deleted once it is, or given up. Entries of a lane go in order.

    Attributes:
        lane: the chat; of an answer to a button: the button press.
        attempts: how often sending began.
        due_at: not to be sent before.
        leased_until: somebody sends it until then.
    """

    __tablename__ = "channel_outbox"

    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    channel_id: Mapped[UUID] = mapped_column(ForeignKey(CHANNELS_ID, ondelete="CASCADE"))
    lane: Mapped[str] = mapped_column(Text)
    data: Mapped[JSON] = mapped_column(JSONB)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    due_at: Mapped[datetime] = _now()
    leased_until: Mapped[datetime | None] = _time()

    __table_args__ = (Index("ix_channel_outbox_channel_id_lane_seq", "channel_id", "lane", "seq"),)
