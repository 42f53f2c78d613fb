"""The queues this process may consume; one enum, shared with the publishing side."""

from __future__ import annotations

from app.core.messaging import Queue

ALL: tuple[str, ...] = tuple(queue.value for queue in Queue)
