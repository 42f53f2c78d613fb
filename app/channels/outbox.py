"""What goes out: stored with the change that causes it, sent in order, tried again.

Sending is at least once: a worker that dies between sending and noting it sends again.

Source: REST contract part 40, section 7.5; ADR 0015.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from app.channels import repository, wording
from app.channels.client import Api, ProviderFailed, open_api
from app.channels.messages import Deliver
from app.channels.models import Channel
from app.channels.providers import PROVIDERS
from app.core import vault
from app.core.clock import utc_now
from app.core.platform import Platform
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

RETRY_AFTER_S = (2.0, 4.0, 8.0)
LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Job:
    seq: int
    attempts: int
    provider: str
    api: Api
    data: JSONObject


def say(
    uow: UnitOfWork,
    channel: Channel,
    chat: str,
    text: str,
    *,
    plain: bool = True,
    via: JSONObject | None = None,
    buttons: list[list[str]] | None = None,
) -> None:
    """Put a text into a chat after the commit, in as many parts as it needs.

    Args:
        uow: the unit of work.
        channel: which bot speaks.
        chat: where.
        text: what; nothing is said when it is blank.
        plain: whether it is shown as it is, without Markdown.
        via: where it goes instead of the chat, in the provider's words.
        buttons: label and data of each.
    """
    parts = wording.split(text, PROVIDERS[channel.provider].TEXT_LIMIT)
    for number, part in enumerate(parts, 1):
        data: JSONObject = {"kind": "text", "text": part, "plain": plain}
        if via:
            data["via"] = via
        if buttons and number == len(parts):
            data["buttons"] = buttons
        put(uow, channel.id, chat, data)


def put(uow: UnitOfWork, channel_id: UUID, lane: str, data: JSONObject) -> None:
    """Store something to be sent after the commit."""
    repository.put_outgoing(uow.session, channel_id, lane, data)
    uow.send_after_commit(Deliver(str(channel_id), lane))


def deliver(platform: Platform, channel_id: UUID, lane: str) -> None:
    """Send what is due for a lane, one after the other. Safe to run anywhere, any time."""
    while (job := _take(platform, channel_id, lane)) is not None:
        failure = _send(job, lane)
        if failure is None:
            with platform.uow() as uow:
                repository.drop_outgoing(uow.session, job.seq)
            continue
        wait_s = _failed(platform, job, failure)
        if wait_s is not None:
            platform.publisher.delay(Deliver(str(channel_id), lane), delay_s=wait_s)
            return


def _send(job: _Job, lane: str) -> ProviderFailed | None:
    """Send an entry; a bug of ours must not hold up for ever what comes behind it."""
    try:
        PROVIDERS[job.provider].send(job.api, lane, job.data)
    except ProviderFailed as exc:
        return exc
    except Exception:
        log.exception("channel_message_failed", provider=job.provider)
        return ProviderFailed("internal error")
    return None


def _take(platform: Platform, channel_id: UUID, lane: str) -> _Job | None:
    """Lease the first entry of a lane; None if there is none, it is not due, or it is taken."""
    with platform.uow() as uow:
        channel = repository.channel(uow.session, channel_id)
        head = repository.head(uow.session, channel_id, lane)
        while head is not None and channel is not None and channel.status != "active":
            # A bot that was switched off says no more; the answer is in the session anyway.
            repository.drop_outgoing(uow.session, head.seq)
            head = repository.head(uow.session, channel_id, lane)
        now = utc_now()
        if head is None or channel is None or head.due_at > now:
            return None
        if head.leased_until is not None and head.leased_until > now:
            return None
        head.leased_until = now + LEASE
        head.attempts += 1
        secrets = vault.get_all(uow.session, platform.cipher, f"channel:{channel_id}")
        api = open_api(platform.settings, channel.provider, secrets)
        return _Job(head.seq, head.attempts, channel.provider, api, head.data)


def _failed(platform: Platform, job: _Job, exc: ProviderFailed) -> float | None:
    """Note a failed attempt; return the seconds until the next, None when there is none."""
    if job.attempts > len(RETRY_AFTER_S):
        log.error("channel_message_dropped", provider=job.provider, reason=exc.reason)
        with platform.uow() as uow:
            repository.drop_outgoing(uow.session, job.seq)
        return None
    wait_s = exc.retry_after_s
    if wait_s is None:
        wait_s = RETRY_AFTER_S[job.attempts - 1]
    log.warning("channel_message_delayed", provider=job.provider, reason=exc.reason, wait_s=wait_s)
    with platform.uow() as uow:
        entry = repository.outgoing(uow.session, job.seq)
        if entry is not None:
            entry.due_at = utc_now() + timedelta(seconds=wait_s)
            entry.leased_until = None
    return wait_s
