"""What happens to agents; higher areas hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class AgentRegistered(Event):
    """An app has an agent that had none before; triggers that name it may be delegated anew."""

    app_id: str
