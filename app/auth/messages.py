"""Messages of accounts and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.core.messaging import Message, Queue


@dataclass(frozen=True, slots=True)
class PruneSignIns(Message):
    """Delete sessions, sign-ins under way and nonces that have run out."""

    name: ClassVar[str] = "auth.prune"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
