"""What happens to crons; the agents slice keeps delegations in step with it."""

from __future__ import annotations

from dataclasses import dataclass
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
