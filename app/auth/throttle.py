"""A brake on guessing credentials: sliding windows of failures in Redis.

Source: REST contract part 10, section 10.5.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.core.errors import TooMany, Unauthenticated

log = structlog.get_logger(__name__)

Recheck = Callable[[], None]

WINDOW_S = 900
PER_PAIR = 10
PER_ADDRESS = 100


class Throttle:
    """Counts failed attempts per client address, and per credential and address.

    Redis away: nothing is throttled and one line is logged for each attempt.
    """

    def __init__(
        self, redis: Redis, *, enabled: bool = True, now: Callable[[], float] = time.time
    ) -> None:
        """Take the Redis that counts and the clock (seconds since the epoch)."""
        self._redis = redis
        self._enabled = enabled
        self._now = now

    @contextmanager
    def attempt(self, address: str | None, name: str | None = None) -> Iterator[Recheck]:
        """Run one attempt; a failure counts, a success clears the counter of the pair.

        Args:
            address: the client's address.
            name: what the credential belongs to (an e-mail address); None: nothing is known.

        Returns:
            A function to call right before the credential is looked at, when the attempt had to
            queue: attempts sent all at once then see each other's failures.

        Raises:
            TooMany: too many failures before; nothing was tried.
        """
        keys = self._keys(address or "", name)
        counting = self._enabled and self._safely(self._refuse_if_over, keys)

        def recheck() -> None:
            if counting:
                self._safely(self._refuse_if_over, keys)

        try:
            yield recheck
        except Unauthenticated:
            if counting:
                self._safely(self._count, keys)
            raise
        if counting and name is not None:
            self._safely(self._redis.delete, keys[0][0])

    def _keys(self, address: str, name: str | None) -> list[tuple[str, int]]:
        own = [(f"auth:failures:{_digest(address)}", PER_ADDRESS)]
        if name is None:
            return own
        return [(f"auth:failures:{_digest(f'{name}|{address}')}", PER_PAIR), *own]

    def _refuse_if_over(self, keys: list[tuple[str, int]]) -> None:
        since = self._now() - WINDOW_S
        pipe = self._redis.pipeline(transaction=False)
        for key, limit in keys:
            # The failure whose ageing out lets the next attempt in.
            pipe.zrevrangebyscore(key, "+inf", f"({since}", start=limit - 1, num=1, withscores=True)
        waits = [found[0][1] + WINDOW_S - self._now() for found in pipe.execute() if found]
        if waits:
            wait_s = max(1, ceil(max(waits)))
            raise TooMany("too many attempts, try again later", retry_after_s=wait_s)

    def _count(self, keys: list[tuple[str, int]]) -> None:
        now = self._now()
        pipe = self._redis.pipeline(transaction=False)
        for key, limit in keys:
            pipe.zadd(key, {secrets.token_hex(8): now})
            pipe.zremrangebyscore(key, "-inf", now - WINDOW_S)
            pipe.zremrangebyrank(key, 0, -limit - 1)
            pipe.expire(key, WINDOW_S)
        pipe.execute()

    def _safely(self, function: Callable[..., Any], *arguments: Any) -> bool:  # Any: any key
        """Tell whether Redis did it."""
        try:
            function(*arguments)
        except (RedisError, OSError) as exc:
            log.warning("throttle_unavailable", reason=type(exc).__name__)
            return False
        return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
