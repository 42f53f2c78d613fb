"""Messages about channels; each only says "look at those rows"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.core.messaging import Message, Queue


@dataclass(frozen=True, slots=True)
class WorkLane(Message):
    """Handle what a sender said in a chat."""

    name: ClassVar[str] = "channels.work"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    channel_id: str
    chat: str
    sender: str


@dataclass(frozen=True, slots=True)
class TakeDecision(Message):
    """Handle the press of an approval's button."""

    name: ClassVar[str] = "channels.decide"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    seq: int


@dataclass(frozen=True, slots=True)
class Deliver(Message):
    """Send what waits for a chat."""

    name: ClassVar[str] = "channels.deliver"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    channel_id: str
    lane: str


@dataclass(frozen=True, slots=True)
class ShowTyping(Message):
    """Show in a chat that an agent works."""

    name: ClassVar[str] = "channels.typing"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    channel_id: str
    chat: str
