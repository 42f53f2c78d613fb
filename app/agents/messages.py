"""Messages about agent runs; each only says "look at that row"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
class StartMCPServer(Message):
    """Connect to an MCP server and write down its tools; answered to a reply list."""

    name: ClassVar[str] = "mcp.start"
    queue: ClassVar[Queue] = Queue.AGENTS
    server: str
    question: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class CallMCPTool(Message):
    """Call a tool of an MCP server for somebody who waits; answered to a reply list."""

    name: ClassVar[str] = "mcp.call"
    queue: ClassVar[Queue] = Queue.AGENTS
    server: str
    tool: str
    given: dict[str, Any]  # Any: JSON values
    question: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class SweepRuns(Message):
    """Expire approvals, take up lost runs, fail what cannot go on."""

    name: ClassVar[str] = "agents.sweep"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
