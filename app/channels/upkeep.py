"""What beat and workers do about channels besides what messages ask for.

Source: REST contract part 40, sections 7.1 and 7.5; ADR 0015.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from app.agents import attended
from app.channels import repository
from app.channels.client import ProviderFailed, open_api
from app.channels.messages import Deliver, ShowTyping, TakeDecision, WorkLane
from app.channels.providers import PROVIDERS
from app.core import vault
from app.core.messaging import Message
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from config.settings import JobSettings

log = structlog.get_logger(__name__)

STALE = timedelta(seconds=3)
KEPT = timedelta(hours=24)
BATCH = 1000


def due(uow: UnitOfWork, *, age: timedelta = STALE) -> list[Message]:
    """Return what is to be looked at: work whose message was lost, and chats that wait.

    This alone keeps chats going after all of Redis was lost.

    Args:
        uow: the unit of work.
        age: how long work may wait for its message.
    """
    session = uow.session
    wanted: list[Message] = [
        *(WorkLane(str(c), chat, who) for c, chat, who in repository.stale_lanes(session, age=age)),
        *(TakeDecision(seq) for seq in repository.stale_decisions(session, age=age)),
        *(Deliver(str(c), lane) for c, lane in repository.due_lanes(session, age=age)),
    ]
    return [*wanted, *_at_work(uow)]


def _at_work(uow: UnitOfWork) -> list[Message]:
    running = repository.running(uow.session)
    ids = [entry.run_id for entry in running if entry.run_id is not None]
    states = attended.states(uow.session, ids)
    # The runs of an app that was uninstalled vanish without an end.
    repository.finish(uow.session, [e.seq for e in running if e.run_id not in states])
    working = [e for e in running if states.get(e.run_id or UUID(int=0)) in {"queued", "running"}]
    active = repository.providers_of(uow.session, {entry.channel_id for entry in working})
    seen = {found for found, provider in active.items() if PROVIDERS[provider].SHOWS_TYPING}
    chats = {(e.channel_id, e.external_chat_id) for e in working if e.channel_id in seen}
    return [ShowTyping(str(channel_id), chat) for channel_id, chat in sorted(chats)]


def show_typing(platform: Platform, channel_id: UUID, chat: str) -> None:
    """Show in a chat that an agent works, if one does."""
    with platform.uow() as uow:
        channel = repository.channel(uow.session, channel_id)
        if channel is None or channel.status != "active":
            return
        if not repository.works_in(uow.session, channel_id, chat):
            return
        secrets = vault.get_all(uow.session, platform.cipher, f"channel:{channel_id}")
    api = open_api(platform.settings, channel.provider, secrets)
    try:
        PROVIDERS[channel.provider].typing(api, chat)
    except ProviderFailed as exc:
        log.info("channel_typing_not_shown", provider=channel.provider, reason=exc.reason)


def prune(uow: UnitOfWork, _settings: JobSettings) -> int:
    """Forget which events came in more than a day ago; return how many were forgotten."""
    return repository.forget_done(uow.session, age=KEPT, limit=BATCH)
