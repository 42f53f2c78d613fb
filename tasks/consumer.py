"""Celery's consumer, back soon after its broker.

Source: Celery's ``worker_consumer`` setting.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker import consumer

RETRY_S = 1


class Consumer(consumer.Consumer):
    """Looks for a lost broker every second; Celery's own waits longer each time, up to 30 s."""

    def ensure_connected(self, conn: Any) -> Any:  # Any: kombu's connection
        """Return the connection once it is made."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY_S, interval_step=0
        )
        return super().ensure_connected(conn)
