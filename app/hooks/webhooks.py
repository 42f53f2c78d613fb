"""Webhooks: kept in step with manifests, listed with their secrets, and what became of calls.

Source: REST contract part 20, sections 3.7 and 10.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.agents import service as agents_service
from app.agents.events import AgentRegistered
from app.apps.events import AppInstalled, AppUninstalled
from app.core import vault
from app.core.crypto import Cipher
from app.core.errors import NotFound
from app.core.ids import check_app_id, parse_uuid
from app.core.uow import UnitOfWork
from app.hooks import webhook_rows as rows
from app.hooks.models import Webhook, WebhookDelivery
from app.integrations.events import OwnWebhookNeeded
from config.settings import JobSettings

AGENT: Final = "agent"
DEFAULT: Final = "POST"
OWN: Final = "own"
TRIGGER: Final = "webhook"
TOKEN: Final = "token"  # noqa: S105 - a name in the vault
SIGNING_SECRET: Final = "signing_secret"  # noqa: S105 - as above
MAX_LISTED: Final = rows.KEPT_DELIVERIES


@dataclass(frozen=True, slots=True)
class ListedWebhook:
    """A webhook with what its caller needs to know."""

    id: UUID
    name: str
    method: str
    token: str
    url: str
    signing_secret: str
    created_at: datetime


def token_hash(token: str) -> bytes:
    """Return what is stored of a token in clear."""
    return hashlib.sha256(token.encode()).digest()


def list_webhooks(session: Session, cipher: Cipher, app_id: str) -> list[ListedWebhook]:
    """Return an app's webhooks by name; an unknown app has none."""
    check_app_id(app_id)
    return [_listed(session, cipher, webhook) for webhook in rows.of_app(session, app_id)]


def _listed(session: Session, cipher: Cipher, webhook: Webhook) -> ListedWebhook:
    kept = vault.get_all(session, cipher, _scope(webhook.id))
    return ListedWebhook(
        id=webhook.id,
        name=webhook.name,
        method=webhook.method,
        token=kept[TOKEN],
        url=f"/api/v1/hooks/{kept[TOKEN]}",
        signing_secret=kept[SIGNING_SECRET],
        created_at=webhook.created_at,
    )


def signing_secret(session: Session, cipher: Cipher, webhook_id: UUID) -> str:
    """Return the secret with which calls of a webhook may be signed."""
    return vault.get(session, cipher, _scope(webhook_id), SIGNING_SECRET) or ""


def _scope(webhook_id: UUID) -> str:
    return f"webhook:{webhook_id}"


# --- in step with the manifest ---------------------------------------------------------------


def sync_manifest(cipher: Cipher, uow: UnitOfWork, event: AppInstalled) -> None:
    """Make an app's webhooks agree with its manifest, in the transaction of the install.

    Tokens of webhooks that stay do not change. One whose owner is gone passes to the installer.
    """
    wanted = {entry["name"]: entry for entry in event.manifest["webhooks"]}
    for webhook in rows.of_app(uow.session, event.app_id):
        entry = wanted.pop(webhook.name, None)
        if entry is None:
            _remove(uow, webhook)
        else:
            webhook.created_by = webhook.created_by or event.actor.user_id
            _apply(uow, webhook, entry)
    for entry in wanted.values():
        _create(cipher, uow, event, entry)


def keep_own(uow: UnitOfWork, event: OwnWebhookNeeded) -> None:
    """Give an integration the webhook that its own token calls. Idempotent."""
    found = rows.own(uow.session, event.integration_id)
    if found is not None:
        found.token_hash = event.token_hash
        return
    webhook = Webhook(
        id=uuid4(),
        app_id=event.integration_id,
        name=rows.OWN,
        method=DEFAULT,
        token_hash=event.token_hash,
    )
    rows.add(uow.session, webhook)


def _create(
    cipher: Cipher, uow: UnitOfWork, event: AppInstalled, entry: Mapping[str, Any]
) -> None:  # Any: JSON values
    token = secrets.token_hex(32)
    webhook = Webhook(
        id=uuid4(),
        app_id=event.app_id,
        name=entry["name"],
        method=entry["method"],
        token_hash=token_hash(token),
        created_by=event.actor.user_id,
    )
    rows.add(uow.session, webhook)
    vault.put(uow.session, cipher, _scope(webhook.id), TOKEN, token)
    secret = secrets.token_urlsafe(32)
    vault.put(uow.session, cipher, _scope(webhook.id), SIGNING_SECRET, secret)
    _apply(uow, webhook, entry)


def _apply(uow: UnitOfWork, webhook: Webhook, entry: Mapping[str, Any]) -> None:  # Any: as above
    if webhook.method == AGENT != entry["method"]:
        agents_service.revoke(uow, trigger_type=TRIGGER, trigger_id=str(webhook.id))
    webhook.method = entry["method"]
    webhook.durable = entry.get("durable", False)
    _delegate(uow, webhook)


def _delegate(uow: UnitOfWork, webhook: Webhook) -> None:
    """Let a webhook run its app's agent in its owner's name."""
    if webhook.method == AGENT and webhook.created_by is not None:
        agents_service.delegate(
            uow,
            delegator_id=webhook.created_by,
            app_id=webhook.app_id,
            trigger_type=TRIGGER,
            trigger_id=str(webhook.id),
        )


def delegate_again(uow: UnitOfWork, event: AgentRegistered) -> None:
    """Let the webhooks of an agent's app run it once it is there (again)."""
    for webhook in rows.for_agent(uow.session, event.app_id):
        _delegate(uow, webhook)


def _remove(uow: UnitOfWork, webhook: Webhook) -> None:
    vault.delete_scope(uow.session, _scope(webhook.id))
    agents_service.revoke(uow, trigger_type=TRIGGER, trigger_id=str(webhook.id))
    rows.remove(uow.session, webhook.id)


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete an app's webhooks with their secrets."""
    for webhook in rows.of_app(uow.session, event.app_id):
        _remove(uow, webhook)


# --- what became of calls --------------------------------------------------------------------


def require(session: Session, app_id: str, webhook_id: str) -> Webhook:
    """Return a webhook of an app; ``own``: the one an integration has by itself.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: the app has no such webhook.
    """
    check_app_id(app_id)
    if webhook_id == OWN:
        found = rows.own(session, app_id)
    else:
        found = rows.find(session, app_id, parse_uuid(webhook_id))
    if found is None:
        raise NotFound(f"no webhook '{webhook_id}'")
    return found


def list_deliveries(session: Session, *, app_id: str, webhook_id: str) -> list[WebhookDelivery]:
    """Return the kept deliveries of a webhook, newest first."""
    webhook = require(session, app_id, webhook_id)
    return rows.deliveries(session, webhook.id, MAX_LISTED)


def get_delivery(
    session: Session, *, app_id: str, webhook_id: str, delivery_id: int
) -> WebhookDelivery:
    """Return a delivery with its headers and body.

    Raises:
        NotFound: the webhook has no such delivery, or not any more.
    """
    webhook = require(session, app_id, webhook_id)
    found = rows.delivery(session, webhook.id, delivery_id)
    if found is None:
        raise NotFound(f"no delivery {delivery_id}")
    return found


def prune(uow: UnitOfWork, settings: JobSettings) -> int:
    """Delete some deliveries older than the settings keep them; return how many."""
    days = settings.webhook_delivery_days
    return rows.prune(uow.session, days) if days else 0
