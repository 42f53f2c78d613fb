"""How many turns of each app wait on the broker: a hint in Redis, never trusted.

A count that is too low costs an idle look at the queue, one that is too high delays a wake-up
until it expires or until the sweep, which does not read it.

Source: REST contract part 30, section 13.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from app.core import celery_wire
from app.core.messaging import Message, Publisher
from app.core.nodes import NODES
from app.jobs.messages import TakeTurn

PREFIX = "turns:"
SEEN_PREFIX = "turn_seen:"
COUNT_TTL_MS = 10_000
SEEN_TTL_MS = 2_000
DOWN_S = 1.0

ADMIT = """
local limit = tonumber(ARGV[1]) * math.max(1, redis.call('SCARD', KEYS[2]))
if tonumber(redis.call('GET', KEYS[1]) or '0') >= limit then return 0 end
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('LPUSH', KEYS[3], ARGV[3])
return 1
"""
GIVE_BACK = """
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
local left = tonumber(redis.call('GET', KEYS[1]) or '0') - tonumber(ARGV[1])
if left <= 0 then return redis.call('DEL', KEYS[1]) end
return redis.call('SET', KEYS[1], left, 'KEEPTTL')
"""


class Turns:
    """The turns that are out, counted by every process alike. Never raises."""

    def __init__(self, redis: Redis, *, per_app: int) -> None:
        """Count in a Redis.

        Args:
            redis: a text client.
            per_app: turns per app and live node.
        """
        self._redis = redis
        self._per_app = per_app
        self._down_until = float("-inf")
        self._admit: Any = redis.register_script(ADMIT)  # Any: redis-py's scripts are untyped
        self._give_back: Any = redis.register_script(GIVE_BACK)  # Any: as above

    def send(self, turn: TakeTurn) -> bool | None:
        """Count one more turn and put it on the broker in one command, unless enough are out.

        Returns:
            Whether it was sent; None when Redis is away.
        """
        queue = turn.queue.value
        element = celery_wire.encode(turn.name, queue, turn.arguments())
        keys = [PREFIX + turn.app_id, NODES, queue]
        arguments = [self._per_app, COUNT_TTL_MS, element]
        sent = self._try(lambda: self._admit(keys, arguments))
        return None if sent is None else bool(sent)

    def give_back(self, app_id: str, count: int = 1) -> None:
        """Uncount turns that were taken, and note that some node looks at this app now."""
        keys = [PREFIX + app_id, SEEN_PREFIX + app_id]
        if count > 0:
            self._try(lambda: self._give_back(keys, [count, SEEN_TTL_MS]))

    def seen(self, app_id: str) -> None:
        """Note that some node looks at this app now."""
        self._try(lambda: self._redis.set(SEEN_PREFIX + app_id, 1, px=SEEN_TTL_MS))

    def renew(self, app_id: str) -> None:
        """Forget a count that led to no turn, and note that one is being sent now."""
        self._try(lambda: self._redis.delete(PREFIX + app_id))
        self.seen(app_id)

    def unseen(self, app_ids: Sequence[str]) -> list[str]:
        """Return the apps that no node looked at lately; all of them when Redis is away."""
        if not app_ids:
            return []
        keys = [SEEN_PREFIX + app_id for app_id in app_ids]
        values = self._try(lambda: self._redis.mget(keys), otherwise=[None] * len(keys))
        return [app_id for app_id, value in zip(app_ids, values, strict=True) if value is None]

    def _try(
        self, ask: Callable[[], Any], *, otherwise: Any = None
    ) -> Any:  # Any: Redis answers are untyped
        """Ask Redis; after a failure not again for a while, for each attempt may block."""
        if time.monotonic() < self._down_until:
            return otherwise
        try:
            return ask()
        except (RedisError, OSError):
            self._down_until = time.monotonic() + DOWN_S
            return otherwise


class TurnPublisher:
    """A publisher that keeps back turns of apps that have enough of them.

    The count is kept where the broker is, so counting and sending are one command.
    """

    def __init__(self, publisher: Publisher, turns: Turns) -> None:
        self._publisher = publisher
        self._turns = turns

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages; a broker that is away is logged, never raised."""
        left = [m for m in messages if not isinstance(m, TakeTurn) or self._turns.send(m) is None]
        if left:
            self._publisher.publish(left)

    def deliver(self, message: Message, *, expires_s: float) -> None:
        """Send a message somebody waits for.

        Raises:
            NotReady: the broker is not reachable.
        """
        self._publisher.deliver(message, expires_s=expires_s)

    def delay(self, message: Message, *, delay_s: float) -> None:
        """Send a message for later; a broker that is away is logged, never raised."""
        self._publisher.delay(message, delay_s=delay_s)
