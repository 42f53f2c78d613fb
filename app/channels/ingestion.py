"""What providers send us: checked, kept against repeats, handed to a worker.

Source: REST contract part 40, section 7.4.
"""

from __future__ import annotations

from typing import Any

from app.channels import repository
from app.channels.incoming import Incoming, Webhook, rejected
from app.channels.messages import TakeDecision, WorkLane
from app.channels.models import Channel
from app.channels.providers import PROVIDERS
from app.core import vault
from app.core.crypto import Cipher
from app.core.errors import Invalid, NotFound
from app.core.ids import parse_uuid
from app.core.uow import UnitOfWork

JSONObject = dict[str, Any]  # Any: JSON values

OK: JSONObject = {"ok": True}
MAX_BODY = 1024 * 1024


def receive(
    uow: UnitOfWork,
    cipher: Cipher,
    *,
    provider: str,
    channel_id: str,
    hook: Webhook,
    answers_to: str,
) -> JSONObject:
    """Take one request of a provider and return its answer. Repeats do nothing.

    Args:
        uow: the unit of work; work begins after its commit.
        cipher: of the vault.
        provider: as in the path.
        channel_id: as in the path.
        hook: the request.
        answers_to: what addresses to answer to must begin with.

    Raises:
        NotFound: no such channel of that provider.
        Invalid: the request is not the provider's, or makes no sense.
    """
    channel = _find(uow, provider, channel_id)
    if len(hook.body) > MAX_BODY:
        raise rejected("body is too large")
    kind = PROVIDERS[provider]
    greeting = kind.handshake(hook)
    if greeting is not None:
        return greeting
    kind.verify(hook, vault.get_all(uow.session, cipher, f"channel:{channel.id}"))
    if channel.status != "active":
        return OK
    given = kind.read(hook, channel.config, answers_to=answers_to.rstrip("/") + "/")
    if given is not None:
        _accept(uow, channel, given)
    return OK


def _find(uow: UnitOfWork, provider: str, channel_id: str) -> Channel:
    try:
        channel = repository.channel(uow.session, parse_uuid(channel_id))
    except Invalid:
        channel = None
    if channel is None or channel.provider != provider:
        raise NotFound("channel not found")
    return channel


def _accept(uow: UnitOfWork, channel: Channel, given: Incoming) -> None:
    seq = repository.put_incoming(uow.session, channel.id, given)
    if seq is None:
        return
    if given.kind == "decision":
        uow.send_after_commit(TakeDecision(seq))
    else:
        uow.send_after_commit(WorkLane(str(channel.id), given.chat, given.sender))
