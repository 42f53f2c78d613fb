"""Live logs: one Redis reader per app and web process, any number of subscribers.

A node appends to the stream ``logs:{app}``; each entry carries a number that rises by one per
node, so a reader that the cap of the stream overtook knows how much it missed.

Source: REST contract part 30, section 8.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.core.clock import rfc3339
from app.core.errors import Invalid, NotReady
from app.core.platform import Platform
from app.http import sse
from workers_runtime.protocol import LogEntry

log = structlog.get_logger(__name__)

KEY_PREFIX: Final = "logs:"
TTL_S: Final = 3600
KEEP_ALIVE_S: Final = 15.0
STREAM_LIFE_S: Final = 3600.0
READ_BLOCK_MS: Final = 1000
READ_COUNT: Final = 1000
RETRY_S: Final = 0.5
EVENT_ID = re.compile(r"(\d{1,20})-(\d{1,20})")

EntryId = tuple[int, int]


def fields_of(entry: LogEntry, *, node: str, number: str) -> dict[str, str]:
    """Return the stream fields of a log line.

    Args:
        entry: the line.
        node: name of the node it came from.
        number: ``boot:n``, where n rises by one per line of that node and app.
    """
    return {
        "level": entry.level,
        "message": entry.message,
        "ts": rfc3339(datetime.fromtimestamp(entry.ts, UTC)),
        "process": f"{node}/{entry.pid}" if entry.pid else node,
        "number": number,
    }


def parse_tail(text: str | None, most: int) -> int:
    """Return how many buffered entries a reader wants first.

    Raises:
        Invalid: not a number from 0 to ``most``.
    """
    if text is None:
        return 0
    if re.fullmatch(r"\d{1,9}", text) is None or int(text) > most:
        raise Invalid(f"tail must be 0-{most}")
    return int(text)


def parse_event_id(text: str | None) -> EntryId | None:
    """Return the position a client saw last, or None when there is none or it is no position."""
    match = EVENT_ID.fullmatch(text or "")
    return None if match is None else (int(match[1]), int(match[2]))


def stream(
    platform: Platform, app_id: str, *, tail: int = 0, after: EntryId | None = None
) -> Iterator[str]:
    """Return the events of an app's log, past ones first.

    Args:
        platform: the process's platform.
        app_id: an installed app.
        tail: buffered entries to replay.
        after: replay what followed this entry instead.

    Raises:
        NotReady: Redis is not reachable.
    """
    feed = _hub(platform).join(app_id)
    try:
        past = _history(platform.redis, app_id, tail, after)
    except (RedisError, OSError) as exc:
        feed.close()
        raise NotReady("service not ready") from exc
    return _Stream(feed, past)


def _history(
    redis: Redis, app_id: str, tail: int, after: EntryId | None
) -> list[tuple[EntryId, str]]:
    key = KEY_PREFIX + app_id
    rows: Any  # Any: redis-py's union of sync and async
    if after is not None:
        rows = redis.xrange(key, min=f"({after[0]}-{after[1]}")
    elif tail:
        rows = reversed(redis.xrevrange(key, count=tail))  # type: ignore[arg-type]
    else:
        redis.ping()
        rows = []
    return [(_entry_id(row[0]), _format(*row)) for row in rows]


class _Stream:
    """The events of one response.

    Not a generator, whose ``close`` runs nothing before its first ``next``: a client that leaves
    that early would stay subscribed.
    """

    def __init__(self, feed: Subscription, past: list[tuple[EntryId, str]]) -> None:
        self._feed = feed
        self._events = _events(feed, past)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._events)

    def close(self) -> None:
        """Leave the feed; called at the end of the response, however it ends."""
        self._feed.close()


def _events(feed: Subscription, past: list[tuple[EntryId, str]]) -> Iterator[str]:
    yield sse.KEEP_ALIVE  # sends the headers at once
    last: EntryId = past[-1][0] if past else (0, 0)
    if past:
        yield "".join(text for _, text in past)
    ends_at = time.monotonic() + STREAM_LIFE_S
    while time.monotonic() < ends_at:
        entries, dropped = feed.take(KEEP_ALIVE_S)
        text = "".join(text for entry_id, text in entries if entry_id > last)
        if dropped:
            text = _dropped(dropped) + text
        yield text or sse.KEEP_ALIVE


def _entry_id(text: str) -> EntryId:
    first, _, second = text.partition("-")
    return int(first), int(second)


def _format(entry_id: str, fields: dict[str, str]) -> str:
    shown = {name: fields.get(name, "") for name in ("level", "message", "ts", "process")}
    return sse.event(shown, event_id=entry_id)


def _dropped(count: int) -> str:
    now = rfc3339(datetime.now(UTC))
    message = f"{count} log entries dropped"
    return sse.event({"level": "system", "message": message, "ts": now, "process": ""})


class Subscription:
    """One reader of one app's log: a bounded queue that drops the oldest entries."""

    def __init__(self, feed: Feed, size: int) -> None:
        self._feed = feed
        self._entries: deque[tuple[EntryId, str]] = deque()
        self._size = size
        self._dropped = 0
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def put(self, entries: list[tuple[EntryId, str]], dropped: int) -> None:
        """Add entries; called by the feed's reader."""
        with self._lock:
            self._entries.extend(entries)
            self._dropped += dropped
            while len(self._entries) > self._size:
                self._entries.popleft()
                self._dropped += 1
        self._ready.set()

    def take(self, timeout_s: float) -> tuple[list[tuple[EntryId, str]], int]:
        """Return what came in and how many entries were dropped, waiting for something."""
        self._ready.wait(timeout_s)
        with self._lock:
            self._ready.clear()
            entries, dropped = list(self._entries), self._dropped
            self._entries.clear()
            self._dropped = 0
        return entries, dropped

    def close(self) -> None:
        """Leave the feed; idempotent."""
        self._feed.leave(self)


class Feed:
    """Reads one app's stream for all its subscribers, as long as there are any."""

    def __init__(self, platform: Platform, app_id: str) -> None:
        self._key = KEY_PREFIX + app_id
        self._size = platform.settings.workers.log_buffer
        self._lock = threading.Lock()
        self._subscribers: list[Subscription] = []
        self._numbers: dict[str, int] = {}
        timeout_s = platform.settings.redis.timeout.total_seconds()
        self._redis = Redis.from_url(
            platform.settings.redis.url,
            decode_responses=True,
            socket_timeout=timeout_s + READ_BLOCK_MS / 1000,
            socket_connect_timeout=timeout_s,
        )
        self._thread: threading.Thread | None = None

    def join(self) -> Subscription:
        """Add a subscriber; it gets what is appended from now on."""
        subscription = Subscription(self, self._size)
        with self._lock:
            if self._thread is None:
                last = self._last_id()
                self._thread = threading.Thread(
                    target=self._run, args=(last,), name="log-feed", daemon=True
                )
                self._thread.start()
            self._subscribers.append(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscriber; the reader ends with the last one."""
        with self._lock:
            if subscription in self._subscribers:
                self._subscribers.remove(subscription)

    def _last_id(self) -> str:
        newest: Any = self._redis.xrevrange(self._key, count=1)  # Any: as in ``_history``
        return str(newest[0][0]) if newest else "0-0"

    def _run(self, last: str) -> None:
        while True:
            with self._lock:
                if not self._subscribers:
                    self._thread = None
                    self._numbers.clear()
                    self._redis.close()
                    return
            try:
                last = self._read(last)
            except (RedisError, OSError) as exc:
                log.info("log_feed_retry", key=self._key, reason=type(exc).__name__)
                time.sleep(RETRY_S)

    def _read(self, last: str) -> str:
        answer: Any = self._redis.xread(  # Any: as in ``_history``
            {self._key: last}, count=READ_COUNT, block=READ_BLOCK_MS
        )
        if not answer:
            return last
        rows = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))[0]
        dropped = sum(self._gap(fields.get("number", "")) for _, fields in rows)
        entries = [(_entry_id(row[0]), _format(*row)) for row in rows]
        with self._lock:
            subscribers = tuple(self._subscribers)
        for subscription in subscribers:
            subscription.put(entries, dropped)
        return str(rows[-1][0])

    def _gap(self, number: str) -> int:
        """Return how many lines of the same node are missing before this one."""
        boot, _, text = number.partition(":")
        if not text.isdigit():
            return 0
        previous = self._numbers.get(boot)
        self._numbers[boot] = int(text)
        return 0 if previous is None else max(0, int(text) - previous - 1)


class Hub:
    """The feeds of this process."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}

    def join(self, app_id: str) -> Subscription:
        """Subscribe to an app's log.

        Raises:
            NotReady: Redis is not reachable.
        """
        with self._lock:
            feed = self._feeds.setdefault(app_id, Feed(self._platform, app_id))
        try:
            return feed.join()
        except (RedisError, OSError) as exc:
            raise NotReady("service not ready") from exc


_HUBS: dict[str, Hub] = {}


def _hub(platform: Platform) -> Hub:
    return _HUBS.setdefault(platform.settings.redis.url, Hub(platform))
