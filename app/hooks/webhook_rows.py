"""Rows of webhooks and their deliveries."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, defer

from app.hooks.models import Webhook, WebhookDelivery

OWN = ""
"""Name of the webhook that an integration has by itself; manifests cannot give it."""
KEPT_DELIVERIES = 100
PRUNED_AT_ONCE = 500


def of_app(session: Session, app_id: str) -> list[Webhook]:
    """Return the webhooks of an app's manifest by name."""
    wanted = select(Webhook).where(Webhook.app_id == app_id, Webhook.name != OWN)
    wanted = wanted.order_by(Webhook.name)
    return list(session.execute(wanted).scalars())


def for_agent(session: Session, app_id: str) -> list[Webhook]:
    """Return the webhooks that run an app's agent."""
    return [webhook for webhook in of_app(session, app_id) if webhook.method == "agent"]


def find(session: Session, app_id: str, webhook_id: UUID) -> Webhook | None:
    """Return a webhook of an app."""
    wanted = select(Webhook).where(Webhook.id == webhook_id, Webhook.app_id == app_id)
    return session.execute(wanted).scalar_one_or_none()


def own(session: Session, app_id: str) -> Webhook | None:
    """Return the webhook that an integration has by itself."""
    wanted = select(Webhook).where(Webhook.app_id == app_id, Webhook.name == OWN)
    return session.execute(wanted).scalar_one_or_none()


def by_hash(session: Session, token_hash: bytes) -> Webhook | None:
    """Return the webhook whose token has a hash."""
    wanted = select(Webhook).where(Webhook.token_hash == token_hash)
    return session.execute(wanted).scalar_one_or_none()


def add(session: Session, webhook: Webhook) -> None:
    """Store a webhook."""
    session.add(webhook)
    session.flush()  # a delegation that names it may follow


def remove(session: Session, webhook_id: UUID) -> None:
    """Delete a webhook with its deliveries."""
    session.execute(delete(Webhook).where(Webhook.id == webhook_id))


# --- deliveries ------------------------------------------------------------------------------


def add_delivery(
    session: Session,
    webhook_id: UUID,
    *,
    headers: dict[str, str],
    body: bytes,
    redelivery_of: int | None = None,
) -> int:
    """Store a call and forget the oldest ones of its webhook; return its number."""
    delivery = WebhookDelivery(
        webhook_id=webhook_id, headers=headers, body=body, redelivery_of=redelivery_of
    )
    session.add(delivery)
    session.flush()  # the number comes from the database
    oldest_kept = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.webhook_id == webhook_id)
        .order_by(WebhookDelivery.id.desc())
        .offset(KEPT_DELIVERIES)
        .limit(1)
        .scalar_subquery()
    )
    session.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.id <= oldest_kept
        )
    )
    return delivery.id


def settle(session: Session, delivery_id: int, **values: Any) -> None:  # Any: column values
    """Note how a delivery ended."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(finished_at=func.now(), **values)
    )


def deliveries(session: Session, webhook_id: UUID, limit: int) -> list[WebhookDelivery]:
    """Return a webhook's deliveries, newest first, without their bodies."""
    newest_first = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id)
        .order_by(WebhookDelivery.id.desc())
        .limit(limit)
        .options(defer(WebhookDelivery.body), defer(WebhookDelivery.headers))
    )
    return list(session.execute(newest_first).scalars())


def delivery(session: Session, webhook_id: UUID, delivery_id: int) -> WebhookDelivery | None:
    """Return a delivery of a webhook."""
    wanted = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id
    )
    return session.execute(wanted).scalar_one_or_none()


def prune(session: Session, days: int) -> int:
    """Delete some deliveries older than ``days``; return how many."""
    age = func.now() - func.make_interval(0, 0, 0, days)
    old = select(WebhookDelivery.id).where(WebhookDelivery.received_at < age).limit(PRUNED_AT_ONCE)
    gone = delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)).returning(WebhookDelivery.id)
    return len(session.execute(gone).scalars().all())
