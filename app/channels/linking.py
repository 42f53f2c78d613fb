"""Links between accounts at providers and users of the platform.

Source: REST contract part 40, section 7.3; part 10, section 7.
"""

from __future__ import annotations

import hashlib
import secrets
from uuid import UUID

from redis import Redis
from redis.exceptions import RedisError

from app.agents import service as agents_service
from app.channels import repository
from app.channels.models import Channel
from app.core.errors import NotReady
from app.core.uow import UnitOfWork

LIFE_S = 300
DEFAULT_AGENT = "assistant"
TRIGGER = "channel"


def new_token(redis: Redis, channel_id: UUID, user_id: UUID) -> str:
    """Return a token that links one account on one channel to a user, within five minutes.

    Raises:
        NotReady: Redis is away.
    """
    token = f"link_{secrets.token_hex(16)}"
    try:
        redis.set(_key(channel_id, token), str(user_id), ex=LIFE_S)
    except (RedisError, OSError) as exc:
        raise NotReady("service not ready") from exc
    return token


def redeem(redis: Redis, channel_id: UUID, token: str) -> UUID | None:
    """Use up a token and return its user; None if it is not good here (any more).

    Raises:
        NotReady: Redis is away.
    """
    try:
        found = redis.getdel(_key(channel_id, token))
    except (RedisError, OSError) as exc:
        raise NotReady("service not ready") from exc
    return UUID(str(found)) if found else None


def _key(channel_id: UUID, token: str) -> str:
    digest = hashlib.sha256(f"{channel_id}:{token}".encode()).hexdigest()
    return f"channel:link:{digest}"


def link(uow: UnitOfWork, channel: Channel, *, chat: str, sender: str, user_id: UUID) -> None:
    """Link a sender to a user, instead of anybody before, and allow the agent in use."""
    session = uow.session
    before = repository.user_of(session, channel.id, sender)
    if before != user_id:
        # The conversations belong to the user before and go with the link.
        repository.unlink_sender(session, channel.id, sender)
        repository.link(session, channel.id, sender, user_id)
    if before is not None and not repository.is_linked(session, channel.id, before):
        revoke(uow, channel.id, before)
    talk = repository.conversation(session, channel.id, chat, sender)
    delegate(uow, channel.id, user_id, default_agent(channel) if talk is None else talk.app_id)


def delegate(uow: UnitOfWork, channel_id: UUID, user_id: UUID, app_id: str) -> None:
    """Let a channel run an agent for one of its linked users."""
    agents_service.delegate(
        uow,
        delegator_id=user_id,
        app_id=app_id,
        trigger_type=TRIGGER,
        trigger_id=trigger_id(channel_id, user_id),
    )


def delegate_all(uow: UnitOfWork, channel: Channel) -> None:
    """Let a channel run its default agent for everybody who is linked."""
    for user_id in repository.users_of(uow.session, channel.id):
        delegate(uow, channel.id, user_id, default_agent(channel))


def revoke(uow: UnitOfWork, channel_id: UUID, user_id: UUID) -> None:
    """End whatever a channel may run for a user."""
    trigger = trigger_id(channel_id, user_id)
    agents_service.revoke(uow, trigger_type=TRIGGER, trigger_id=trigger)


def trigger_id(channel_id: UUID, user_id: UUID) -> str:
    """Return what the delegations of a user on a channel are kept under."""
    return f"{channel_id}:{user_id}"


def default_agent(channel: Channel) -> str:
    """Return the app whose agent answers before somebody chooses another."""
    return str(channel.config.get("default_agent") or DEFAULT_AGENT)
