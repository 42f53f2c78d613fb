"""What the jobs slice sends to nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.core.messaging import Message, Queue


@dataclass(frozen=True, slots=True)
class TakeTurn(Message):
    """Give an app one turn on a node: look for its visible jobs and work on them."""

    name: ClassVar[str] = "jobs.turn"
    queue: ClassVar[Queue] = Queue.JOBS
    app_id: str
