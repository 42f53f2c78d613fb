"""What happens to integrations; higher areas hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class OwnWebhookNeeded(Event):
    """An integration of the catalog is deployed; calls with its own token reach it."""

    integration_id: str
    token_hash: bytes
