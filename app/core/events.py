"""Domain events: how a lower slice reaches a higher one without knowing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.core.uow import UnitOfWork


class Event:
    """Base of domain events; subclasses are frozen dataclasses named in the past tense."""


Handler = Callable[["UnitOfWork", Any], None]  # Any: each handler names its own event


class Subscriptions:
    """Who hears which event. Filled once, in ``app.bootstrap``."""

    def __init__(self) -> None:
        self._handlers: dict[type[Event], list[Handler]] = defaultdict(list)

    def add(self, event: type[Event], handler: Handler) -> None:
        """Call ``handler(uow, event)`` in the unit of work that emits the event."""
        self._handlers[event].append(handler)

    def of(self, event: Event) -> Iterable[Handler]:
        """Return the handlers of an event, in the order they were added."""
        return tuple(self._handlers[type(event)])
