"""What happens to crons; the agents slice keeps delegations in step with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class CronCreated(Event):
    """An owner ordered work that runs without them.

    Attributes:
        owner: ``createdBy`` of the cron.
    """

    cron_id: UUID
    app_id: str
    owner: UUID


@dataclass(frozen=True, slots=True)
class CronDeleted(Event):
    """A cron is gone, and with it what was granted for it."""

    cron_id: UUID
    app_id: str


@dataclass(frozen=True, slots=True)
class AgentAppsWanted(Event):
    """A question to the slice above: which of these apps have an agent?

    Attributes:
        found: filled by the subscriber.
    """

    app_ids: Collection[str]
    found: set[str] = field(default_factory=set, compare=False)
