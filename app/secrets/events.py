"""What happens to secrets."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class PlatformSecretChanged(Event):
    """A platform secret was set or deleted.

    Attributes:
        restarting: filled by subscribers with the apps that restart because of it.
    """

    restarting: set[str] = field(default_factory=set)
