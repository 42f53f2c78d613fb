"""The reading end of live events: one Redis reader per web process, any number of clients.

Source: REST contract part 40, sections 1.6, 1.7 and 1.13.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.agents import run_repository, runs, streams
from app.core import sse
from app.core.live import Inbox, Row, StreamReader, reader_client
from app.core.platform import Platform

log = structlog.get_logger(__name__)

PING = ": ping\n\n"
BLOCK_MS = 1000
RETRY_S = 0.5
LOOK_S = 10.0
FLEET_BACKLOG = 512
GONE = {"error": runs.CANCELLED}


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a run."""

    seq: int
    kind: str
    data: str

    def frame(self) -> str:
        """Return the event as it is sent."""
        return f"id: {self.seq}\nevent: {self.kind}\ndata: {self.data}\n\n"


class _Ends:
    """Knows which of the followed runs have ended, asking Postgres for all of them at once."""

    def __init__(self, platform: Platform, reader: StreamReader[Entry]) -> None:
        self._platform = platform
        self._reader = reader
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._ended: frozenset[str] = frozenset()

    def has(self, run_id: UUID) -> bool:
        """Tell whether a run is known to have ended; the answer may be some seconds old."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_S / 2 and self._lock.acquire(blocking=False):
            try:
                self._looked_at = now
                self._look()
            finally:
                self._lock.release()
        return str(run_id) in self._ended

    def _look(self) -> None:
        ids = [streams.run_of(key) for key in self._reader.followed()]
        with self._platform.uow.reading() as session:
            self._ended = frozenset(map(str, run_repository.ended_among(session, ids)))


class FleetFeed:
    """Hears what all agents do, for every client of this process that wants to know."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._inboxes: list[Inbox[str]] = []
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()

    def join(self) -> Inbox[str]:
        """Follow everything from now on."""
        inbox: Inbox[str] = Inbox(FLEET_BACKLOG)
        with self._lock:
            self._inboxes.append(inbox)
            if self._thread is None:
                self._listening.clear()
                self._thread = threading.Thread(target=self._run, name="fleet-feed", daemon=True)
                self._thread.start()
        self._listening.wait(1.0)
        return inbox

    def leave(self, inbox: Inbox[str]) -> None:
        """Stop following."""
        with self._lock:
            if inbox in self._inboxes:
                self._inboxes.remove(inbox)

    def _run(self) -> None:
        redis = reader_client(self._platform)
        while True:
            try:
                make: Any = redis.pubsub  # Any: redis-py leaves it untyped
                with make(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(streams.FLEET)
                    self._listening.set()
                    if self._listen(pubsub):
                        return
            except (RedisError, OSError) as exc:
                log.info("fleet_feed_retry", reason=type(exc).__name__)
                time.sleep(RETRY_S)

    def _listen(self, pubsub: Any) -> bool:  # Any: redis-py's class is not exported
        """Hand messages on; tell whether nobody listens any more."""
        while True:
            message = pubsub.get_message(timeout=BLOCK_MS / 1000)
            with self._lock:
                if not self._inboxes:
                    self._thread = None
                    return True
                inboxes = tuple(self._inboxes)
            if message is not None and message["type"] == "message":
                for inbox in inboxes:
                    inbox.put([message["data"]])


def follow(platform: Platform, run_id: UUID, after: int = 0) -> Iterator[str]:
    """Yield a run's events as frames, until its terminal one.

    Args:
        platform: the process's platform.
        run_id: the run.
        after: number of the last event the client has.
    """
    feeds = platform.part(_Feeds)
    key = streams.key(run_id)
    inbox = feeds.reader.join(key, _converter)
    try:
        yield from _follow(platform, run_id, inbox, after)
    finally:
        feeds.reader.leave(key, inbox)


def _follow(platform: Platform, run_id: UUID, inbox: Inbox[Entry], after: int) -> Iterator[str]:
    ping_s = platform.settings.agents.ping.total_seconds()
    ends = platform.part(_Feeds).ends
    pending = _history(platform, run_id)
    last, quiet_s, look = after, 0.0, not pending
    if not pending:
        # The response's headers travel with its first bytes.
        yield PING
    while True:
        try:
            # Redis may have lost something; Postgres has all but the text.
            look = look or (quiet_s > 0 and ends.has(run_id))
            fresh = _news(platform, run_id, last, pending, look=look)
        except SQLAlchemyError as exc:
            log.info("run_feed_retry", reason=type(exc).__name__)
            time.sleep(RETRY_S)
            yield PING
            continue
        look = False
        for entry in fresh:
            last = entry.seq
            yield entry.frame()
            if entry.kind in streams.TERMINAL:
                return
        started = time.monotonic()
        pending, _ = inbox.take(min(LOOK_S, max(0.1, ping_s - quiet_s)))
        quiet_s = 0.0 if pending else quiet_s + time.monotonic() - started
        if quiet_s >= ping_s:
            quiet_s = 1e-9
            yield PING


def _news(
    platform: Platform, run_id: UUID, last: int, pending: list[Entry], *, look: bool
) -> list[Entry]:
    """Return what a client that has seen event ``last`` gets next, gaps filled."""
    # Whoever ends a run from outside may number its end like a piece of the worker's text.
    fresh = [e for e in pending if e.seq > last or e.kind in streams.TERMINAL]
    if fresh and fresh[0].seq > last + 1:
        return [*_stored(platform, run_id, last, fresh[0].seq), *fresh]
    return fresh if fresh or not look else _ended(platform, run_id, last)


def _converter() -> Callable[[list[Row]], tuple[list[Entry], int]]:
    return lambda rows: ([_entry(fields) for _, fields in rows], 0)


def _history(platform: Platform, run_id: UUID) -> list[Entry]:
    try:
        rows: Any = platform.redis.xrange(streams.key(run_id))  # Any: redis-py's union
    except (RedisError, OSError):
        return []
    return [_entry(fields) for _, fields in rows]


def _stored(platform: Platform, run_id: UUID, after: int, before: int) -> list[Entry]:
    return [entry for entry in _events(platform, run_id, after) if entry.seq < before]


def _ended(platform: Platform, run_id: UUID, last: int) -> list[Entry]:
    """Return what a client missed of a run that has ended; nothing while it goes on."""
    with platform.uow() as uow:
        row = run_repository.run(uow.session, run_id)
        if row is not None and row.state not in runs.ENDED:
            return []
    found = _events(platform, run_id, last)
    if row is None:
        return [Entry(last + 1, "error", json.dumps(GONE))]
    return found


def _events(platform: Platform, run_id: UUID, after: int) -> list[Entry]:
    with platform.uow() as uow:
        return [
            Entry(row.seq, row.type, _compact(row.data))
            for row in run_repository.events_after(uow.session, run_id, after)
        ]


def fleet(platform: Platform, app_id: str | None) -> Iterator[str]:
    """Yield what all agents do, for ever.

    Args:
        platform: the process's platform.
        app_id: only this agent's events.
    """
    feed = platform.part(FleetFeed)
    inbox = feed.join()
    ping_s = platform.settings.agents.ping.total_seconds()
    try:
        yield PING
        sent_at = time.monotonic()
        while True:
            items, dropped = inbox.take(ping_s)
            text = "" if not dropped else sse.event({})
            text += "".join(
                f"data: {item}\n\n"
                for item in items
                if app_id is None or json.loads(item)["app_id"] == app_id
            )
            if text or time.monotonic() - sent_at >= ping_s:
                sent_at = time.monotonic()
                yield text or PING
    finally:
        feed.leave(inbox)


def _entry(fields: Any) -> Entry:  # Any: a Redis hash
    return Entry(int(fields["seq"]), fields["type"], fields["data"])


def _compact(value: Any) -> str:  # Any: a JSON value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Feeds:
    """What all clients of this process that follow runs share."""

    def __init__(self, platform: Platform) -> None:
        self.reader: StreamReader[Entry] = StreamReader(platform, "run-feeds")
        self.ends = _Ends(platform, self.reader)
