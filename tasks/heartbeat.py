"""The sign of life of a node in Redis: ``node:{name}`` with its boot id, gone after 2 s.

Source: ADR 0003 (why not the 15 s of contract part 30, section 15).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.core.nodes import NODE_PREFIX, NODES

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 0.5
TTL_MS: Final = 2000
GRACE_BEATS: Final = 6


class Heartbeat:
    """Beats every half second while the node's runtime is there or just being replaced."""

    def __init__(self, redis: Redis, identity: str, *, alive: Callable[[], bool]) -> None:
        self._redis = redis
        self._name, _, self._boot = identity.rpartition("/")
        self._alive = alive
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, then go on from a thread."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Tell that the node is gone."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        try:
            self._redis.delete(NODE_PREFIX + self._name)
            self._redis.srem(NODES, self._name)
        except (RedisError, OSError) as exc:
            log.info("heartbeat_not_removed", reason=type(exc).__name__)

    def _run(self) -> None:
        missed = 0
        while not self._stopping.wait(INTERVAL_S):
            missed = 0 if self._alive() else missed + 1
            if missed <= GRACE_BEATS:
                self._beat()

    def _beat(self) -> None:
        pipe: Any = self._redis.pipeline(transaction=False)  # Any: redis-py's sync/async union
        pipe.sadd(NODES, self._name)
        pipe.set(NODE_PREFIX + self._name, self._boot, px=TTL_MS)
        try:
            pipe.execute()
        except (RedisError, OSError) as exc:
            log.info("heartbeat_failed", reason=type(exc).__name__)
