"""SQL of channels."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.channels.incoming import ORDERED, Incoming
from app.channels.models import (
    Channel,
    ChannelIdentity,
    ChannelSession,
    InboxEntry,
    OutboxEntry,
)

LOOK_AGAIN = timedelta(minutes=1)

JSONObject = dict[str, Any]  # Any: JSON values


def channels(session: Session) -> list[Channel]:
    """Return every channel, newest first."""
    return list(session.scalars(select(Channel).order_by(Channel.created_at.desc(), Channel.id)))


def channel(session: Session, channel_id: UUID, *, lock: bool = False) -> Channel | None:
    """Return a channel."""
    query = select(Channel).where(Channel.id == channel_id)
    return session.scalar(query.with_for_update() if lock else query)


def add_channel(session: Session, **values: Any) -> Channel:  # Any: column values
    """Store a channel and return it with its id and times."""
    row = Channel(**values)
    session.add(row)
    session.flush()
    return row


def delete_channel(session: Session, channel_id: UUID) -> None:
    """Delete a channel with its links, conversations, inbox and outbox."""
    session.execute(delete(Channel).where(Channel.id == channel_id))


# --- links and conversations -----------------------------------------------------------------


def user_of(session: Session, channel_id: UUID, sender: str) -> UUID | None:
    """Return the user a sender is linked to."""
    query = select(ChannelIdentity.user_id).where(
        ChannelIdentity.channel_id == channel_id, ChannelIdentity.external_user_id == sender
    )
    return session.scalar(query)


def users_of(session: Session, channel_id: UUID) -> set[UUID]:
    """Return everybody who is linked to a channel."""
    query = select(ChannelIdentity.user_id).where(ChannelIdentity.channel_id == channel_id)
    return set(session.scalars(query))


def is_linked(session: Session, channel_id: UUID, user_id: UUID) -> bool:
    """Tell whether a user has a link to a channel."""
    query = select(ChannelIdentity.user_id).where(
        ChannelIdentity.channel_id == channel_id, ChannelIdentity.user_id == user_id
    )
    return session.scalar(query.limit(1)) is not None


def link(session: Session, channel_id: UUID, sender: str, user_id: UUID) -> None:
    """Link a sender who is not linked."""
    row = insert(ChannelIdentity).values(
        channel_id=channel_id, external_user_id=sender, user_id=user_id
    )
    session.execute(row)


def unlink_sender(session: Session, channel_id: UUID, sender: str) -> None:
    """Forget a sender's link and conversations."""
    session.execute(
        delete(ChannelIdentity).where(
            ChannelIdentity.channel_id == channel_id, ChannelIdentity.external_user_id == sender
        )
    )


def unlink_user(session: Session, channel_id: UUID, user_id: UUID) -> bool:
    """Forget all links of a user to a channel; tell whether there were any."""
    gone = delete(ChannelIdentity).where(
        ChannelIdentity.channel_id == channel_id, ChannelIdentity.user_id == user_id
    )
    return bool(session.execute(gone.returning(ChannelIdentity.external_user_id)).all())


def conversation(
    session: Session, channel_id: UUID, chat: str, sender: str
) -> ChannelSession | None:
    """Return what a sender talks to in a chat."""
    query = select(ChannelSession).where(
        ChannelSession.channel_id == channel_id,
        ChannelSession.external_chat_id == chat,
        ChannelSession.external_user_id == sender,
    )
    return session.scalar(query.execution_options(populate_existing=True))


def start_conversation(
    session: Session, channel_id: UUID, chat: str, sender: str, *, app_id: str, session_id: UUID
) -> None:
    """Let a sender talk to an agent in a chat from now on."""
    row = insert(ChannelSession).values(
        channel_id=channel_id,
        external_chat_id=chat,
        external_user_id=sender,
        app_id=app_id,
        session_id=session_id,
    )
    changed = {"app_id": row.excluded.app_id, "session_id": row.excluded.session_id}
    keys = ["channel_id", "external_chat_id", "external_user_id"]
    session.execute(row.on_conflict_do_update(index_elements=keys, set_=changed))


# --- inbox -----------------------------------------------------------------------------------


def now(session: Session) -> datetime:
    """Return the time on the clock that stamps what comes in."""
    moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def put_incoming(session: Session, channel_id: UUID, given: Incoming) -> int | None:
    """Store what came in and return its number; None when it is known already."""
    row = insert(InboxEntry).values(
        channel_id=channel_id,
        external_event_id=given.event_id,
        external_chat_id=given.chat,
        external_user_id=given.sender,
        kind=given.kind,
        data=given.data,
    )
    return session.scalar(row.on_conflict_do_nothing().returning(InboxEntry.seq))


def waiting(
    session: Session, channel_id: UUID, chat: str, sender: str, *, limit: int
) -> list[InboxEntry]:
    """Return the first waiting texts and commands of a lane, in order."""
    query = (
        select(InboxEntry)
        .where(
            InboxEntry.channel_id == channel_id,
            InboxEntry.external_chat_id == chat,
            InboxEntry.external_user_id == sender,
            InboxEntry.state == "waiting",
            InboxEntry.kind.in_(ORDERED),
        )
        .order_by(InboxEntry.seq)
        .limit(limit)
    )
    return list(session.scalars(query))


def entry(session: Session, seq: int, *, lock: bool = False) -> InboxEntry | None:
    """Return an entry of the inbox."""
    query = select(InboxEntry).where(InboxEntry.seq == seq)
    return session.scalar(query.with_for_update() if lock else query)


def entry_of_run(session: Session, run_id: UUID, *, lock: bool = False) -> InboxEntry | None:
    """Return the entry whose text an agent works on."""
    query = select(InboxEntry).where(InboxEntry.run_id == run_id, InboxEntry.state == "running")
    return session.scalar(query.with_for_update() if lock else query)


def has_running(session: Session, channel_id: UUID, session_id: UUID) -> bool:
    """Tell whether an agent works on a text of a session."""
    query = select(InboxEntry.seq).where(
        InboxEntry.channel_id == channel_id,
        InboxEntry.session_id == session_id,
        InboxEntry.state == "running",
    )
    return session.scalar(query.limit(1)) is not None


def works_in(session: Session, channel_id: UUID, chat: str) -> bool:
    """Tell whether an agent works on a text of a chat."""
    query = select(InboxEntry.seq).where(
        InboxEntry.channel_id == channel_id,
        InboxEntry.external_chat_id == chat,
        InboxEntry.state == "running",
    )
    return session.scalar(query.limit(1)) is not None


def running(session: Session) -> list[InboxEntry]:
    """Return every entry an agent works on."""
    query = select(InboxEntry).where(InboxEntry.state == "running")
    return list(session.scalars(query.order_by(InboxEntry.seq)))


def stale_lanes(session: Session, *, age: timedelta) -> list[tuple[UUID, str, str]]:
    """Return lanes with texts or commands that wait longer than they should."""
    working = InboxEntry.__table__.alias("working")
    busy = exists().where(
        working.c.channel_id == InboxEntry.channel_id,
        working.c.external_chat_id == InboxEntry.external_chat_id,
        working.c.external_user_id == InboxEntry.external_user_id,
        working.c.state == "running",
    )
    query = (
        select(InboxEntry.channel_id, InboxEntry.external_chat_id, InboxEntry.external_user_id)
        .where(
            InboxEntry.state == "waiting",
            InboxEntry.kind.in_(ORDERED),
            InboxEntry.received_at < func.now() - age,
            # The end of a run wakes its lane; commands that came meanwhile are looked at, too.
            ~busy | (InboxEntry.received_at > func.now() - LOOK_AGAIN),
        )
        .distinct()
    )
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def stale_decisions(session: Session, *, age: timedelta) -> list[int]:
    """Return presses of buttons that wait longer than they should."""
    query = select(InboxEntry.seq).where(
        InboxEntry.state == "waiting",
        InboxEntry.kind == "decision",
        InboxEntry.received_at < func.now() - age,
    )
    return list(session.scalars(query.order_by(InboxEntry.seq)))


def forget_done(session: Session, *, age: timedelta, limit: int) -> int:
    """Delete marks against repeats that are old enough; return how many."""
    old = (
        select(InboxEntry.seq)
        .where(InboxEntry.state == "done", InboxEntry.received_at < func.now() - age)
        .limit(limit)
    )
    gone = delete(InboxEntry).where(InboxEntry.seq.in_(old)).returning(InboxEntry.seq)
    return len(session.execute(gone).all())


# --- outbox ----------------------------------------------------------------------------------


def put_outgoing(session: Session, channel_id: UUID, lane: str, data: JSONObject) -> None:
    """Store something to be sent."""
    session.execute(insert(OutboxEntry).values(channel_id=channel_id, lane=lane, data=data))


def head(session: Session, channel_id: UUID, lane: str) -> OutboxEntry | None:
    """Return what is to be sent next, locked."""
    query = (
        select(OutboxEntry)
        .where(OutboxEntry.channel_id == channel_id, OutboxEntry.lane == lane)
        .order_by(OutboxEntry.seq)
        .limit(1)
        .with_for_update()
    )
    return session.scalar(query)


def outgoing(session: Session, seq: int) -> OutboxEntry | None:
    """Return an entry of the outbox."""
    return session.get(OutboxEntry, seq)


def drop_outgoing(session: Session, seq: int) -> None:
    """Forget something that was sent, or is not to be sent any more."""
    session.execute(delete(OutboxEntry).where(OutboxEntry.seq == seq))


def due_lanes(session: Session, *, age: timedelta) -> list[tuple[UUID, str]]:
    """Return lanes whose next entry waits longer than it should."""
    earlier = OutboxEntry.__table__.alias("earlier")
    query = (
        select(OutboxEntry.channel_id, OutboxEntry.lane)
        .where(
            OutboxEntry.due_at < func.now() - age,
            OutboxEntry.leased_until.is_(None) | (OutboxEntry.leased_until < func.now()),
            ~exists().where(
                earlier.c.channel_id == OutboxEntry.channel_id,
                earlier.c.lane == OutboxEntry.lane,
                earlier.c.seq < OutboxEntry.seq,
            ),
        )
        .distinct()
    )
    return [(row[0], row[1]) for row in session.execute(query)]


def providers_of(session: Session, channel_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the providers of active channels."""
    query = select(Channel.id, Channel.provider).where(
        Channel.id.in_(channel_ids), Channel.status == "active"
    )
    return {row[0]: row[1] for row in session.execute(query)}


def finish(session: Session, seqs: Collection[int]) -> None:
    """Mark entries as done and forget what they said."""
    session.execute(
        update(InboxEntry)
        .where(InboxEntry.seq.in_(seqs))
        .values(state="done", data={}, leased_until=None)
        .execution_options(synchronize_session="fetch")
    )
