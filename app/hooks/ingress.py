"""Calls of webhooks: let in by token and signature, written down, then handed to the app.

Source: REST contract part 20, section 10; part 40, sections 1.14 and 5.8; ADR 0010.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.agents import service as agents_service
from app.core.actor import Actor
from app.core.errors import AppError, Forbidden, NotFound, TooLarge
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.hooks import webhook_rows as rows
from app.hooks import webhooks
from app.hooks.models import Webhook
from app.http.parsing import parse_json
from app.integrations import service as integrations_service
from app.jobs import service as jobs_service
from app.jobs.service import NewJob
from app.rbac import service as rbac_service
from app.workers import rpc
from workers_runtime.protocol import MAX_LINE_BYTES

log = structlog.get_logger(__name__)

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
MAX_AGE_S: Final = 300
TIMESTAMP: Final = "x-webhook-timestamp"
SIGNATURE: Final = "x-webhook-signature"
NOT_LOGGED: Final = frozenset({"authorization", "cookie"})
ACCEPTED: Final = b'{"status":"accepted"}'
LINE_RESERVE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """What a sender sent.

    Attributes:
        headers: lower-case names.
        raw: the body.
    """

    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:  # Any: a JSON value
        """The body's JSON value, or its text when it is none."""
        try:
            return parse_json(self.raw)
        except AppError:
            return self.raw.decode("utf-8", "replace")

    def params(self, name: str) -> dict[str, Any]:  # Any: JSON values
        """Return what a handler gets."""
        return {
            "name": name,
            "headers": dict(self.headers),
            "body": self.body,
            "rawBody": base64.b64encode(self.raw).decode(),
        }


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that was let in; it is written down under ``delivery_id``."""

    webhook_id: UUID
    app_id: str
    name: str
    method: str
    durable: bool
    owner_id: UUID | None
    delivery_id: int


def receive(platform: Platform, token: str, received: Received) -> bytes:
    """Let a call in and hand it to the app; not idempotent.

    Returns:
        The answer as JSON: the handler's, or that the call was accepted.

    Raises:
        NotFound: no webhook has this token.
        Forbidden: the signature is wrong, or the owner may not act.
        AppError: as an RPC fails.
    """
    with platform.uow() as uow:
        webhook = _find(uow.session, token)
        if webhook is None:
            raise NotFound("unknown webhook")
        if webhook.name != rows.OWN:
            _check_signature(platform, uow.session, webhook.id, received)
        admitted = _admit(uow, webhook, received)
    return _deliver(platform, admitted, received)


def redeliver(platform: Platform, *, app_id: str, webhook_id: str, delivery_id: int) -> int:
    """Hand a call that came in earlier to the app once more, as the webhook is now.

    Returns:
        The number of the new delivery, which says how it ended.

    Raises:
        NotFound: no such webhook or delivery.
    """
    with platform.uow() as uow:
        webhook = webhooks.require(uow.session, app_id, webhook_id)
        first = webhooks.get_delivery(
            uow.session, app_id=app_id, webhook_id=webhook_id, delivery_id=delivery_id
        )
        received = Received(first.headers, first.body)
        admitted = _admit(uow, webhook, received, redelivery_of=first.id)
    try:
        _deliver(platform, admitted, received)
    except AppError as exc:
        log.info("webhook_redelivery_failed", app_id=app_id, reason=exc.message)
    return admitted.delivery_id


def _find(session: Session, token: str) -> Webhook | None:
    digest = webhooks.token_hash(token)
    found = rows.by_hash(session, digest)
    if found is None or not hmac.compare_digest(found.token_hash, digest):
        return None
    return found


def _check_signature(
    platform: Platform, session: Session, webhook_id: UUID, received: Received
) -> None:
    """Check timestamp and signature when the sender gave both."""
    timestamp = received.headers.get(TIMESTAMP)
    signature = received.headers.get(SIGNATURE)
    if timestamp is None or signature is None:
        return
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise Forbidden("webhook timestamp rejected")
    if not 0 <= time.time() - int(timestamp) <= MAX_AGE_S:
        raise Forbidden("webhook timestamp rejected")
    secret = webhooks.signing_secret(session, platform.cipher, webhook_id)
    signed = timestamp.encode() + b"." + received.raw
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    given = signature.removeprefix("sha256=").lower()
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise Forbidden("webhook signature rejected")


def _admit(
    uow: UnitOfWork, webhook: Webhook, received: Received, redelivery_of: int | None = None
) -> Admitted:
    delivery_id = rows.add_delivery(
        uow.session,
        webhook.id,
        headers={k: v for k, v in received.headers.items() if k not in NOT_LOGGED},
        body=received.raw,
        redelivery_of=redelivery_of,
    )
    return Admitted(
        webhook_id=webhook.id,
        app_id=webhook.app_id,
        name=webhook.name,
        method=webhook.method,
        durable=webhook.durable,
        owner_id=webhook.created_by,
        delivery_id=delivery_id,
    )


def _deliver(platform: Platform, call: Admitted, received: Received) -> bytes:
    """Do what the webhook is for, and note how that ended."""
    try:
        if call.method == webhooks.AGENT:
            return _run_agent(platform, call, received)
        if call.durable:
            return _enqueue(platform, call, received)
        return _call_method(platform, call, received)
    except AppError as exc:
        status = "refused" if isinstance(exc, Forbidden) else "failed"
        with platform.uow() as uow:
            rows.settle(uow.session, call.delivery_id, status=status, error=exc.message)
        log.info("webhook_not_delivered", app_id=call.app_id, webhook=call.name, status=status)
        raise


def _run_agent(platform: Platform, call: Admitted, received: Received) -> bytes:
    payload = json.dumps(received.body, ensure_ascii=False)
    try:
        with platform.uow() as uow:
            run_id = agents_service.start_autonomous(
                uow,
                owner_id=call.owner_id,
                app_id=call.app_id,
                message=f"Webhook received: {call.name}\n\n{payload}",
                source=webhooks.TRIGGER,
                trigger_id=str(call.webhook_id),
            )
            rows.settle(uow.session, call.delivery_id, status="accepted", run_id=run_id)
    except (Forbidden, NotFound) as exc:
        raise Forbidden(f"webhook refused: {exc.message}") from exc
    return ACCEPTED


def _enqueue(platform: Platform, call: Admitted, received: Received) -> bytes:
    params = received.params(call.name)
    payload = {"_webhook": True, "method": call.method, **_without_nul(params)}
    with platform.uow() as uow:
        owner = _owner(uow.session, call)
        job = NewJob(call.app_id, payload, owner.user_id, source="hook")
        msg_id = jobs_service.put(uow, [job])[0]
        rows.settle(uow.session, call.delivery_id, status="accepted", msg_id=msg_id)
    return json.dumps({"status": "accepted", "msg_id": msg_id}).encode()


def _without_nul(params: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Return parameters that a row can hold; the exact bytes are in ``rawBody``."""
    body = params["body"]
    return {**params, "body": body.replace("\0", "\ufffd")} if isinstance(body, str) else params


def _call_method(platform: Platform, call: Admitted, received: Received) -> bytes:
    params = _fitting(received.params(call.name))
    with platform.uow() as uow:
        # Nobody owns an integration's own webhook: what it is for is checked by its code.
        owner = None if call.name == rows.OWN else _owner(uow.session, call)
        integration = call.method == webhooks.DEFAULT and integrations_service.is_integration(
            uow.session, call.app_id
        )
    if owner is None or integration:
        event = call.name or None
        answer = _call_integration(platform, call.app_id, received, event=event, owner=owner)
    else:
        answer = rpc.call(
            platform,
            owner,
            app_id=call.app_id,
            method=call.method,
            params=params,
            key=rpc.NO_KEY,
            authorize=_nothing_more,
        )
    with platform.uow() as uow:
        rows.settle(uow.session, call.delivery_id, status="succeeded")
    return answer


def _fitting(params: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Return parameters if they fit in one message to an app process."""
    if len(json.dumps(params)) > MAX_LINE_BYTES - LINE_RESERVE_BYTES:
        raise TooLarge("request body too large")
    return params


def _call_integration(
    platform: Platform,
    integration_id: str,
    received: Received,
    *,
    event: str | None,
    owner: Actor | None,
) -> bytes:
    """Hand a call to an integration's own webhook method (part 40, section 5.8)."""
    params = _fitting(received.params(event or ""))
    answer = integrations_service.call_webhook(
        platform,
        integration_id,
        headers=params["headers"],
        body=params["body"],
        raw_body=params["rawBody"],
        event=event,
        owner=owner,
    )
    return json.dumps(answer, ensure_ascii=False).encode()


def _owner(session: Session, call: Admitted) -> Actor:
    if call.owner_id is None:
        raise Forbidden("webhook refused: no owner")
    owner = rbac_service.load_actor(session, call.owner_id)
    if owner is None:
        raise Forbidden("webhook refused: owner disabled")
    return owner


def _nothing_more() -> None:
    """Ask nothing of an owner without a node: being enabled is all it takes."""
