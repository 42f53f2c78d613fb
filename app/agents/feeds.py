"""The reading end of live events: one Redis reader per web process, any number of clients.

Source: REST contract part 40, sections 1.6, 1.7 and 1.13.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.agents import run_repository, runs, streams
from app.core.platform import Platform
from app.http import sse

log = structlog.get_logger(__name__)

PING = ": ping\n\n"
BLOCK_MS = 1000
COUNT = 500
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


class Inbox:
    """What waits for one client.

    Args:
        size: entries kept at most; when more come in, all are dropped.
    """

    def __init__(self, size: int | None = None) -> None:
        self._items: deque[Any] = deque()
        self._size = size
        self._overflow = False
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def put(self, items: list[Any]) -> None:
        """Add items; called by the reader."""
        with self._lock:
            self._items.extend(items)
            if self._size is not None and len(self._items) > self._size:
                self._items.clear()
                self._overflow = True
        self._ready.set()

    def take(self, timeout_s: float) -> tuple[list[Any], bool]:
        """Return what came in and whether something was dropped, waiting for a while."""
        self._ready.wait(timeout_s)
        with self._lock:
            self._ready.clear()
            items, overflow = list(self._items), self._overflow
            self._items.clear()
            self._overflow = False
        return items, overflow


class RunFeeds:
    """Reads the streams of all runs that somebody in this process follows."""

    def __init__(self, platform: Platform) -> None:
        self._redis = _reader(platform)
        self._wake_key = f"agent:wake:{id(self)}:{time.time_ns()}"
        self._lock = threading.Lock()
        self._inboxes: dict[str, list[Inbox]] = {}
        self._positions: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def join(self, redis: Redis, run_id: UUID) -> Inbox:
        """Follow a run from now on."""
        inbox = Inbox()
        name = streams.key(run_id)
        try:
            newest: Any = redis.xrevrange(name, count=1)  # Any: redis-py's union
        except (RedisError, OSError):
            newest = []
        with self._lock:
            self._inboxes.setdefault(name, []).append(inbox)
            self._positions.setdefault(name, newest[0][0] if newest else "0-0")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="run-feeds", daemon=True)
                self._thread.start()
        self._wake(redis)
        return inbox

    def leave(self, run_id: UUID, inbox: Inbox) -> None:
        """Stop following."""
        name = streams.key(run_id)
        with self._lock:
            found = self._inboxes.get(name, [])
            if inbox in found:
                found.remove(inbox)
            if not found:
                self._inboxes.pop(name, None)
                self._positions.pop(name, None)

    def _wake(self, redis: Redis) -> None:
        # The reader blocks on the streams it knows; an entry here makes it look at its list.
        try:
            with redis.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake_key, {"w": "1"}, maxlen=1)
                pipe.expire(self._wake_key, 60)
                pipe.execute()
        except (RedisError, OSError):
            log.info("run_feeds_not_woken")

    def _run(self) -> None:
        woken = "0-0"
        while True:
            with self._lock:
                if not self._inboxes:
                    self._thread = None
                    return
                wanted: Any = {**self._positions, self._wake_key: woken}
            try:
                answer: Any = self._redis.xread(wanted, count=COUNT, block=BLOCK_MS)
            except (RedisError, OSError) as exc:
                log.info("run_feeds_retry", reason=type(exc).__name__)
                time.sleep(RETRY_S)
                continue
            for name, rows in _streams_of(answer):
                if name == self._wake_key:
                    woken = rows[-1][0]
                else:
                    self._deliver(name, rows)

    def _deliver(self, name: str, rows: list[Any]) -> None:
        entries = [_entry(fields) for _, fields in rows]
        with self._lock:
            if name in self._positions:
                self._positions[name] = rows[-1][0]
            inboxes = tuple(self._inboxes.get(name, ()))
        for inbox in inboxes:
            inbox.put(entries)


class FleetFeed:
    """Hears what all agents do, for every client of this process that wants to know."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._inboxes: list[Inbox] = []
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()

    def join(self) -> Inbox:
        """Follow everything from now on."""
        inbox = Inbox(FLEET_BACKLOG)
        with self._lock:
            self._inboxes.append(inbox)
            if self._thread is None:
                self._listening.clear()
                self._thread = threading.Thread(target=self._run, name="fleet-feed", daemon=True)
                self._thread.start()
        self._listening.wait(1.0)
        return inbox

    def leave(self, inbox: Inbox) -> None:
        """Stop following."""
        with self._lock:
            if inbox in self._inboxes:
                self._inboxes.remove(inbox)

    def _run(self) -> None:
        redis = _reader(self._platform)
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
    feeds = _feeds(platform)
    inbox = feeds.join(platform.redis, run_id)
    try:
        yield from _follow(platform, run_id, inbox, after)
    finally:
        feeds.leave(run_id, inbox)


def _follow(platform: Platform, run_id: UUID, inbox: Inbox, after: int) -> Iterator[str]:
    ping_s = platform.settings.agents.ping.total_seconds()
    pending = _history(platform, run_id)
    last, quiet_s, looked = after, 0.0, bool(pending)
    if not pending:
        # The response's headers travel with its first bytes.
        yield PING
    while True:
        # Whoever ends a run from outside may number its end like a piece of the worker's text.
        fresh = [e for e in pending if e.seq > last or e.kind in streams.TERMINAL]
        if fresh and fresh[0].seq > last + 1:
            fresh = [*_stored(platform, run_id, last, fresh[0].seq), *fresh]
        if not fresh and (not looked or quiet_s > 0):
            # Redis may have lost something; Postgres has all but the text.
            fresh = _ended(platform, run_id, last)
        looked = True
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
    feed = _fleet(platform)
    inbox = feed.join()
    ping_s = platform.settings.agents.ping.total_seconds()
    try:
        yield PING
        while True:
            items, overflow = inbox.take(ping_s)
            if overflow:
                yield sse.event({})
            elif not items:
                yield PING
            for item in items:
                if app_id is None or json.loads(item)["app_id"] == app_id:
                    yield f"data: {item}\n\n"
    finally:
        feed.leave(inbox)


def _entry(fields: Any) -> Entry:  # Any: a Redis hash
    return Entry(int(fields["seq"]), fields["type"], fields["data"])


def _streams_of(answer: Any) -> list[tuple[str, list[Any]]]:  # Any: RESP2 or RESP3 shape
    if not answer:
        return []
    if isinstance(answer, dict):
        return [(name, rows[0]) for name, rows in answer.items()]
    return [(name, rows) for name, rows in answer]


def _compact(value: Any) -> str:  # Any: a JSON value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _reader(platform: Platform) -> Redis:
    timeout_s = platform.settings.redis.timeout.total_seconds()
    return Redis.from_url(
        platform.settings.redis.url,
        decode_responses=True,
        socket_timeout=timeout_s + BLOCK_MS / 1000,
        socket_connect_timeout=timeout_s,
    )


_FEEDS: dict[str, RunFeeds] = {}
_FLEETS: dict[str, FleetFeed] = {}


def _feeds(platform: Platform) -> RunFeeds:
    found = _FEEDS.get(platform.settings.redis.url)
    return found or _FEEDS.setdefault(platform.settings.redis.url, RunFeeds(platform))


def _fleet(platform: Platform) -> FleetFeed:
    found = _FLEETS.get(platform.settings.redis.url)
    return found or _FLEETS.setdefault(platform.settings.redis.url, FleetFeed(platform))
