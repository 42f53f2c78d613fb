"""Live logs: one Redis reader per app and web process, any number of subscribers.

A node appends to the stream ``logs:{app}``; each entry carries a number that rises by one per
node, so a reader that the cap of the stream overtook knows how much it missed.

Source: REST contract part 30, section 8.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from app.core import sse
from app.core.clock import rfc3339
from app.core.errors import Invalid, NotReady
from app.core.live import Inbox, Row, StreamReader
from app.core.platform import Platform
from workers_runtime.protocol import LogEntry

KEY_PREFIX: Final = "logs:"
TTL_S: Final = 3600
KEEP_ALIVE_S: Final = 15.0
STREAM_LIFE_S: Final = 3600.0
EVENT_ID = re.compile(r"(\d{1,20})-(\d{1,20})")

EntryId = tuple[int, int]
Line = tuple[EntryId, str]


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
    reader, key = platform.part(_reader), KEY_PREFIX + app_id
    inbox = reader.join(key, _Lines, platform.settings.workers.log_buffer)
    try:
        past = _history(platform.redis, key, tail, after)
    except (RedisError, OSError) as exc:
        reader.leave(key, inbox)
        raise NotReady("service not ready") from exc
    return _Stream(inbox, past, partial(reader.leave, key, inbox))


def _history(redis: Redis, key: str, tail: int, after: EntryId | None) -> list[Line]:
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

    def __init__(self, inbox: Inbox[Line], past: list[Line], leave: Callable[[], None]) -> None:
        self._leave = leave
        self._events = _events(inbox, past)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._events)

    def close(self) -> None:
        """Leave the feed; called at the end of the response, however it ends."""
        self._leave()


def _events(inbox: Inbox[Line], past: list[Line]) -> Iterator[str]:
    yield sse.KEEP_ALIVE  # sends the headers at once
    last: EntryId = past[-1][0] if past else (0, 0)
    if past:
        yield "".join(text for _, text in past)
    ends_at = time.monotonic() + STREAM_LIFE_S
    while time.monotonic() < ends_at:
        entries, dropped = inbox.take(KEEP_ALIVE_S)
        text = "".join(text for entry_id, text in entries if entry_id > last)
        if dropped:
            text = _dropped(dropped) + text
        yield text or sse.KEEP_ALIVE


def _entry_id(text: str) -> EntryId:
    first, _, second = text.partition("-")
    return int(first), int(second)


def _format(entry_id: str, fields: Mapping[str, str]) -> str:
    shown = {name: fields.get(name, "") for name in ("level", "message", "ts", "process")}
    return sse.event(shown, event_id=entry_id)


def _dropped(count: int) -> str:
    now = rfc3339(datetime.now(UTC))
    message = f"{count} log entries dropped"
    return sse.event({"level": "system", "message": message, "ts": now, "process": ""})


class _Lines:
    """Makes events of log lines and counts the lines that the cap of the stream took away."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, rows: list[Row]) -> tuple[list[Line], int]:
        dropped = sum(self._gap(fields.get("number", "")) for _, fields in rows)
        return [(_entry_id(row[0]), _format(*row)) for row in rows], dropped

    def _gap(self, number: str) -> int:
        """Return how many lines of the same node are missing before this one."""
        boot, _, text = number.partition(":")
        if not text.isdigit():
            return 0
        previous = self._numbers.get(boot)
        self._numbers[boot] = int(text)
        return 0 if previous is None else max(0, int(text) - previous - 1)


def _reader(platform: Platform) -> StreamReader[Line]:
    return StreamReader(platform, "log-feed")
