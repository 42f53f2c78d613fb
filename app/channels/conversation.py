"""What happens with the texts and commands of one sender in one chat, in order.

Each entry of a lane is handled in one transaction under the lane's lock. What has to be fetched
from elsewhere is fetched in between, under a lease on the entry.

Source: REST contract part 40, sections 7.3 and 7.5; ADR 0015.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.agents import attended
from app.channels import commands, linking, media, outbox, repository, wording
from app.channels.commands import Lane
from app.channels.messages import ShowTyping, WorkLane
from app.channels.models import Channel, InboxEntry
from app.channels.providers import PROVIDERS
from app.core.clock import utc_now
from app.core.errors import AppError, Conflict, Forbidden, NotFound
from app.core.locks import lock_lane
from app.core.platform import Platform
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

QUEUE = 20
LOOK_AT = 60
MOST_STEPS = 100
MOST_FAILURES = 3
LONG_TEXT = 4096
CONTINUATION = timedelta(seconds=2)
LEASE = timedelta(seconds=150)
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing to do now; whoever ends what is waited for comes back."""


@dataclass(frozen=True, slots=True)
class Done:
    """One step was made."""


@dataclass(frozen=True, slots=True)
class Later:
    """The next step is due after some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Redeem:
    """A link token is to be used up before its command can be handled."""

    seq: int
    token: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Files are to be fetched before their text can be handled."""

    seq: int
    order: media.Order


Step = Idle | Done | Later | Redeem | Fetch


def work(platform: Platform, lane: Lane) -> None:
    """Handle what waits in a lane as far as that goes. Safe to run anywhere, any time."""
    again = WorkLane(str(lane.channel_id), lane.chat, lane.sender)
    for _ in range(MOST_STEPS):
        match _guarded(platform, lane):
            case Idle():
                return
            case Later(seconds):
                platform.publisher.delay(again, delay_s=seconds)
                return
            case Redeem(seq, token):
                _redeem(platform, lane, seq, token)
            case Fetch(seq, order):
                _prepared(platform, seq, media.fetch(platform, order))
            case Done():
                pass
    platform.publisher.publish([again])


def _guarded(platform: Platform, lane: Lane) -> Step:
    """Make a step; an entry that cannot be handled must not hold up those behind it for ever."""
    try:
        return _step(platform, lane)
    except DATABASE_AWAY:
        raise
    except Exception:
        log.exception("channel_entry_failed", channel_id=str(lane.channel_id))
        return _fail_first(platform, lane)


def _fail_first(platform: Platform, lane: Lane) -> Step:
    with platform.uow() as uow:
        lock_lane(uow.session, lane.name)
        channel = repository.channel(uow.session, lane.channel_id)
        first = lane.waiting(uow.session, limit=1)
        if channel is None or not first:
            return Idle()
        first[0].failures += 1
        if first[0].failures < MOST_FAILURES:
            return Later(2.0)
        outbox.say(uow, channel, lane.chat, wording.failed("internal error"))
        repository.finish(uow.session, [first[0].seq])
        return Done()


def _step(platform: Platform, lane: Lane) -> Step:
    with platform.uow() as uow:
        lock_lane(uow.session, lane.name)
        channel = repository.channel(uow.session, lane.channel_id)
        entries = lane.waiting(uow.session, limit=LOOK_AT)
        if channel is None or not entries:
            return Idle()
        if channel.status != "active":
            repository.finish(uow.session, [entry.seq for entry in entries])
            return Done()
        first = entries[0]
        if first.leased_until is not None and first.leased_until > utc_now():
            return Idle()
        if first.kind == "command":
            return _command(uow, channel, lane, first)
        return _text(uow, channel, lane, entries)


def _command(uow: UnitOfWork, channel: Channel, lane: Lane, entry: InboxEntry) -> Step:
    token = commands.token_of(entry.data)
    if token is not None and "user_id" not in entry.data:
        entry.leased_until = utc_now() + LEASE
        return Redeem(entry.seq, token)
    commands.handle(uow, channel, lane, entry)
    repository.finish(uow.session, [entry.seq])
    return Done()


def _redeem(platform: Platform, lane: Lane, seq: int, token: str) -> None:
    try:
        user_id = linking.redeem(platform.redis, lane.channel_id, token)
    except AppError:
        with platform.uow() as uow:
            entry = repository.entry(uow.session, seq)
            if entry is not None:
                entry.leased_until = utc_now() + CONTINUATION
        raise
    _prepared(platform, seq, {"user_id": None if user_id is None else str(user_id)})


def _prepared(platform: Platform, seq: int, found: dict[str, object]) -> None:
    with platform.uow() as uow:
        entry = repository.entry(uow.session, seq)
        if entry is not None and entry.state == "waiting":
            entry.data = {**entry.data, **found}
            entry.leased_until = None


# --- texts -----------------------------------------------------------------------------------


def _text(uow: UnitOfWork, channel: Channel, lane: Lane, entries: list[InboxEntry]) -> Step:
    first = entries[0]
    user_id = repository.user_of(uow.session, channel.id, lane.sender)
    if user_id is None:
        outbox.say(uow, channel, lane.chat, wording.NO_LINK, via=first.data.get("via"))
        repository.finish(uow.session, [first.seq])
        return Done()
    talk = repository.conversation(uow.session, channel.id, lane.chat, lane.sender)
    app_id = linking.default_agent(channel) if talk is None else talk.app_id
    session_id = uuid4() if talk is None else talk.session_id
    if repository.has_running(uow.session, channel.id, session_id):
        return _busy(uow, channel, lane, entries)
    parts = _parts(entries)
    wait_s = _seconds_to_wait(uow, parts, entries)
    if wait_s > 0:
        return Later(wait_s)
    if first.data["media"] and "file_ids" not in first.data:
        first.leased_until = utc_now() + LEASE
        return Fetch(first.seq, media.Order(channel.id, app_id, user_id, first.data["media"]))
    return _run(uow, channel, lane, entries, _Talk(user_id, app_id, session_id, parts))


@dataclass(frozen=True, slots=True)
class _Talk:
    user_id: UUID
    app_id: str
    session_id: UUID
    parts: list[InboxEntry]

    @property
    def text(self) -> str:
        notes = self.parts[0].data.get("notes") or []
        return "\n".join([*(part.data["text"] for part in self.parts), *notes]).strip()

    @property
    def file_ids(self) -> list[UUID]:
        return [UUID(found) for found in self.parts[0].data.get("file_ids") or []]


def _run(
    uow: UnitOfWork, channel: Channel, lane: Lane, entries: list[InboxEntry], talk: _Talk
) -> Step:
    first, *more = talk.parts
    try:
        # A refused run leaves nothing behind.
        with uow.session.begin_nested():
            run_id = attended.start(
                uow,
                invoker_id=talk.user_id,
                app_id=talk.app_id,
                session_id=talk.session_id,
                message=talk.text,
                file_ids=talk.file_ids,
                trigger_id=linking.trigger_id(channel.id, talk.user_id),
            )
    except Conflict:
        return _busy(uow, channel, lane, entries)
    except AppError as exc:
        outbox.say(uow, channel, lane.chat, _refusal(exc))
        repository.finish(uow.session, [part.seq for part in talk.parts])
        return Done()
    repository.start_conversation(
        uow.session,
        channel.id,
        lane.chat,
        lane.sender,
        app_id=talk.app_id,
        session_id=talk.session_id,
    )
    first.state = "running"
    first.run_id = run_id
    first.session_id = talk.session_id
    first.data = {}
    repository.finish(uow.session, [part.seq for part in more])
    if PROVIDERS[channel.provider].SHOWS_TYPING:
        uow.send_after_commit(ShowTyping(str(channel.id), lane.chat))
    return Done()


def _refusal(exc: AppError) -> str:
    if isinstance(exc, NotFound):
        return wording.AGENT_GONE
    if isinstance(exc, Forbidden):
        return wording.NOT_YOURS
    return wording.failed(exc.message)


def _busy(uow: UnitOfWork, channel: Channel, lane: Lane, entries: list[InboxEntry]) -> Step:
    """Leave texts waiting for their turn, as many as may."""
    too_many = entries[QUEUE:]
    if too_many:
        outbox.say(uow, channel, lane.chat, wording.BUSY)
        repository.finish(uow.session, [entry.seq for entry in too_many])
    return Idle()


def _parts(entries: list[InboxEntry]) -> list[InboxEntry]:
    """Return the entries that make up the first text: what was too long came in pieces."""
    parts = [entries[0]]
    for entry in entries[1:]:
        if not _is_long(parts[-1]) or entry.kind != "text" or entry.data["media"]:
            break
        if entry.received_at - parts[-1].received_at > CONTINUATION:
            break
        parts.append(entry)
    return parts


def _is_long(entry: InboxEntry) -> bool:
    return wording.units(entry.data["text"]) >= LONG_TEXT


def _seconds_to_wait(uow: UnitOfWork, parts: list[InboxEntry], entries: list[InboxEntry]) -> float:
    """Return how long the continuation of a long text may still take to come."""
    last = parts[-1]
    if not _is_long(last) or len(parts) < len(entries):
        return 0.0
    age = repository.now(uow.session) - last.received_at
    return max(0.0, (CONTINUATION - age).total_seconds())
