"""Redis streams to many clients: one reader per process for all streams that somebody follows.

The reader blocks on every followed stream at once; an entry in a stream of its own wakes it when
that list changes.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.core.platform import Platform

log = structlog.get_logger(__name__)

T = TypeVar("T")
Row = tuple[str, Mapping[str, str]]
"""Id and fields of an entry."""
Convert = Callable[[list[Row]], tuple[list[T], int]]
"""Makes items of rows, once for all clients; tells how many entries are missing before them."""

BLOCK_MS: Final = 1000
COUNT: Final = 1000
RETRY_S: Final = 0.5
WAKE_TTL_S: Final = 60


class Inbox(Generic[T]):
    """What waits for one client.

    Args:
        size: items kept at most; the oldest go first. None = all are kept.
    """

    def __init__(self, size: int | None = None) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._dropped = 0
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def put(self, items: list[T], dropped: int = 0) -> None:
        """Add items; called by a reader.

        Args:
            items: in order.
            dropped: how many are missing before them.
        """
        with self._lock:
            self._items.extend(items)
            self._dropped += dropped
            while self._size is not None and len(self._items) > self._size:
                self._items.popleft()
                self._dropped += 1
        self._ready.set()

    def take(self, timeout_s: float) -> tuple[list[T], int]:
        """Return what came in and how many items were dropped, waiting for something."""
        self._ready.wait(timeout_s)
        with self._lock:
            self._ready.clear()
            items, dropped = list(self._items), self._dropped
            self._items.clear()
            self._dropped = 0
        return items, dropped


@dataclass(slots=True)
class _Followed(Generic[T]):
    position: str
    convert: Convert[T]
    inboxes: list[Inbox[T]] = field(default_factory=list)


class StreamReader(Generic[T]):
    """Reads streams for all clients of this process. Its thread lives as long as there are any.

    Args:
        platform: the process's platform.
        name: of the thread.
    """

    def __init__(self, platform: Platform, name: str) -> None:
        self._redis = reader_client(platform)
        self._commands = platform.redis
        self._name = name
        self._wake_key = f"wake:{name}:{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed[T]] = {}
        self._thread: threading.Thread | None = None

    def join(self, key: str, make: Callable[[], Convert[T]], size: int | None = None) -> Inbox[T]:
        """Follow a stream from now on; what was in it before is for the caller to read next.

        Args:
            key: name of the stream.
            make: makes what converts its rows, should nobody follow it yet.
            size: of the inbox.
        """
        inbox: Inbox[T] = Inbox(size)
        newest = self._newest(key)
        with self._lock:
            if key not in self._followed:
                self._followed[key] = _Followed(newest, make())
            self._followed[key].inboxes.append(inbox)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._wake()
        return inbox

    def leave(self, key: str, inbox: Inbox[T]) -> None:
        """Stop following; idempotent."""
        with self._lock:
            found = self._followed.get(key)
            if found is None or inbox not in found.inboxes:
                return
            found.inboxes.remove(inbox)
            if not found.inboxes:
                del self._followed[key]

    def followed(self) -> list[str]:
        """Return the streams that somebody follows."""
        with self._lock:
            return list(self._followed)

    def _newest(self, key: str) -> str:
        try:
            newest: Any = self._commands.xrevrange(key, count=1)  # Any: redis-py's union
        except (RedisError, OSError):
            return "0-0"
        return str(newest[0][0]) if newest else "0-0"

    def _wake(self) -> None:
        try:
            with self._commands.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake_key, {"w": "1"}, maxlen=1)
                pipe.expire(self._wake_key, WAKE_TTL_S)
                pipe.execute()
        except (RedisError, OSError):
            # It looks by itself within a second.
            log.info("stream_reader_not_woken", name=self._name)

    def _run(self) -> None:
        woken = "0-0"
        while True:
            with self._lock:
                if not self._followed:
                    self._thread = None
                    return
                wanted: Any = {key: found.position for key, found in self._followed.items()}
            try:
                answer: Any = self._redis.xread(  # Any: redis-py's union
                    {**wanted, self._wake_key: woken}, count=COUNT, block=BLOCK_MS
                )
            except (RedisError, OSError) as exc:
                log.info("stream_reader_retry", name=self._name, reason=type(exc).__name__)
                time.sleep(RETRY_S)
                continue
            for key, rows in _streams_of(answer):
                if key == self._wake_key:
                    woken = rows[-1][0]
                else:
                    self._deliver(key, rows)

    def _deliver(self, key: str, rows: list[Row]) -> None:
        with self._lock:
            found = self._followed.get(key)
            if found is None:
                return
            found.position = rows[-1][0]
            inboxes = tuple(found.inboxes)
        items, dropped = found.convert(rows)
        for inbox in inboxes:
            inbox.put(items, dropped)


def reader_client(platform: Platform) -> Redis:
    """Return a client that may block for as long as a reader does."""
    timeout_s = platform.settings.redis.timeout.total_seconds()
    return Redis.from_url(
        platform.settings.redis.url,
        decode_responses=True,
        socket_timeout=timeout_s + BLOCK_MS / 1000,
        socket_connect_timeout=timeout_s,
    )


def _streams_of(answer: Any) -> list[tuple[str, list[Row]]]:  # Any: RESP2 or RESP3 shape
    if not answer:
        return []
    if isinstance(answer, dict):
        return [(name, rows[0]) for name, rows in answer.items()]
    return [(name, rows) for name, rows in answer]
