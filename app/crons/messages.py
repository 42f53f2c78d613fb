"""What the crons slice sends to nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.core.messaging import Message, Queue


@dataclass(frozen=True, slots=True)
class FireCrons(Message):
    """Turn due ticks into jobs.

    Attributes:
        shard: the one to begin with.
    """

    name: ClassVar[str] = "crons.fire"
    queue: ClassVar[Queue] = Queue.CRONS
    shard: int = 0


@dataclass(frozen=True, slots=True)
class PruneHistory(Message):
    """Delete old runs, archived jobs and dead letters."""

    name: ClassVar[str] = "maintenance.prune"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
