"""Messages about agent runs; each only says "look at that row"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.core.messaging import Message, Queue


@dataclass(frozen=True, slots=True)
class RunAgent(Message):
    """Take up a queued run."""

    name: ClassVar[str] = "agents.run"
    queue: ClassVar[Queue] = Queue.AGENTS
    run_id: str


@dataclass(frozen=True, slots=True)
class ResumeRun(Message):
    """Take up a run that waited for approvals or was handed on by its worker."""

    name: ClassVar[str] = "agents.resume"
    queue: ClassVar[Queue] = Queue.AGENTS
    run_id: str


@dataclass(frozen=True, slots=True)
class SweepRuns(Message):
    """Expire approvals, take up lost runs, fail what cannot go on."""

    name: ClassVar[str] = "agents.sweep"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
