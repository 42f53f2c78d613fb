"""Tasks of the channels slice.

Rows and the sweep make up for lost messages, so none is acknowledged late: kombu ends the whole
worker when Redis goes away under a message that still is to be acknowledged.
"""

from __future__ import annotations

from uuid import UUID

from app.channels import commands, conversation, outbox, upkeep
from app.channels.commands import Lane
from app.channels.messages import Deliver, ShowTyping, TakeDecision, WorkLane
from app.core.platform import Platform
from tasks.base import task


@task(WorkLane, acks_late=False)
def work(platform: Platform, channel_id: str, chat: str, sender: str) -> None:
    """Handle what somebody said in a chat, in order."""
    conversation.work(platform, Lane(UUID(channel_id), chat, sender))


@task(TakeDecision, acks_late=False)
def decide(platform: Platform, seq: int) -> None:
    """Handle the press of an approval's button."""
    commands.decide(platform, seq)


@task(Deliver, acks_late=False)
def deliver(platform: Platform, channel_id: str, lane: str) -> None:
    """Send what waits for a chat."""
    outbox.deliver(platform, UUID(channel_id), lane)


@task(ShowTyping, acks_late=False)
def typing(platform: Platform, channel_id: str, chat: str) -> None:
    """Show in a chat that an agent works."""
    upkeep.show_typing(platform, UUID(channel_id), chat)
