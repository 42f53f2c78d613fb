"""What happens to agents; higher areas hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class AgentRegistered(Event):
    """An app has an agent that had none before; triggers that name it may be delegated anew."""

    app_id: str


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """A run came to its end.

    Attributes:
        source: api, cron, hook, webhook, channel or agent.
        response: the whole answer, or what there is of it.
        error: None when it completed.
    """

    run_id: UUID
    source: str
    response: str
    error: str | None


@dataclass(frozen=True, slots=True)
class ApprovalRequested(Event):
    """A run, or a sub-agent of it, asks a person about a tool call.

    Attributes:
        root_run_id: the run somebody asked for.
    """

    approval_id: UUID
    root_run_id: UUID
    tool_name: str
    arguments: dict[str, Any]  # Any: JSON values
    reason: str
