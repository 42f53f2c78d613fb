"""What happens to deployed code; the agents slice looks for an agent in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from app.core.actor import Actor
from app.core.events import Event


@dataclass(frozen=True)
class DeploymentReceived(Event):
    """An archive whose entries are in order is about to be stored. A subscriber may refuse it.

    Attributes:
        archive: a seekable file with the uploaded bytes.
        actor: who deploys.
    """

    app_id: str
    archive: BinaryIO
    actor: Actor


@dataclass(frozen=True)
class DeploymentActivated(Event):
    """A deployment becomes current in this transaction.

    Attributes:
        deployed_by: who uploaded it.
        open_archive: returns a seekable file with its bytes.
    """

    app_id: str
    deployment_id: UUID
    deployed_by: UUID | None
    open_archive: Callable[[], BinaryIO]
