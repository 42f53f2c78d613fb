"""One connection to Redis for one thread, for the few commands that every call waits for.

redis-py's client takes a pooled connection, retries, measures and converts for each command; that
costs several times what the command does. Here its connection is used as it is.

Source: ADR 0014.
"""

from __future__ import annotations

import time
from typing import Any, Final

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

LOOK_AFTER_S: Final = 0.2

Command = tuple[str | bytes | int | float, ...]


class Wire:
    """Sends commands and returns their answers; connects when first used. Not thread-safe.

    After an error the connection is closed, and the next command makes a new one.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Prepare a connection.

        Args:
            url: where Redis is.
            timeout_s: longest wait for an answer, and for a connection.
        """
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            # A second attempt could run a call twice.
            retry=Retry(NoBackoff(), 0),
        )
        self._connection: Any = pool.make_connection()  # Any: redis-py's sync/async union
        self._used_at = 0.0

    def send(self, *commands: Command) -> list[Any]:  # Any: Redis answers are untyped
        """Send commands in one piece and return their answers, texts as bytes.

        Raises:
            RedisError: Redis is away, or refuses one of them.
        """
        connection = self._connection
        try:
            if time.monotonic() - self._used_at > LOOK_AFTER_S:
                self._look()
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._used_at = time.monotonic()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def _look(self) -> None:
        """Close a connection that the other side closed while nobody looked."""
        if not self._connection.is_connected:
            return
        try:
            whole = not self._connection.can_read()
        except (RedisError, OSError):
            whole = False
        if not whole:
            self._connection.disconnect()
