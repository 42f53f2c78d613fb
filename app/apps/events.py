"""What happens to apps; other areas hear it in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.actor import Actor
from app.core.events import Event


@dataclass(frozen=True)
class AppInstalled(Event):
    """An app was installed or updated; its tables are in step with the manifest.

    Attributes:
        manifest: the normalised manifest as stored.
        actor: who installed it.
    """

    app_id: str
    manifest: Mapping[str, Any]  # Any: JSON values
    actor: Actor


@dataclass(frozen=True, slots=True)
class AppUninstalled(Event):
    """An app is going; its row still exists while subscribers clean up after it."""

    app_id: str
