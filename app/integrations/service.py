"""What other slices and the node use of integrations.

Source: REST contract part 40, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.apps.events import AppUninstalled
from app.core.actor import Actor
from app.core.crypto import Cipher, VaultError
from app.core.errors import AppError, Failed
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.integrations import actions, config, hand_over, installed, repository
from app.integrations.connections import forget_user
from app.integrations.hand_over import HookFailed
from app.integrations.installed import Integration
from app.secrets import service as secrets_service
from app.workers.service import WorkerHost

__all__ = [
    "acting_as",
    "call_webhook",
    "execute_action",
    "fill_call",
    "forget_app",
    "forget_user",
    "is_hook",
    "is_integration",
    "list_permitted",
    "seal_answer",
    "sync_connected_users",
]

log = structlog.get_logger(__name__)

JSON = Any  # Any: a JSON value


def execute_action(
    platform: Platform,
    actor: Actor,
    *,
    integration_id: str,
    action_id: str,
    given: JSON,
    connection_id: str | None = None,
    app_id: str | None = None,
    must_be_bound: bool = False,
    agent_user_id: UUID | None = None,
    host: WorkerHost | None = None,
) -> JSON:
    """Run an action of an integration as the actor and return its result.

    Opens units of work of its own; call it in none. Failures at the service behind the
    integration are results (``ok: false``), not errors.

    Args:
        platform: the process's platform.
        actor: who acts, with the permissions that count; for an agent's tool the caller
            (the invoker, narrowed to the effective permissions).
        integration_id: an installed integration.
        action_id: one of its actions.
        given: the action's input.
        connection_id: one of the actor's own connections, to use that one.
        app_id: the app the call is made for; its binding chooses the connection.
        must_be_bound: refuse unless that app is bound to the integration.
        agent_user_id: the principal of the agent that calls; what was lent to it is used when
            the actor has no connection.
        host: this process's node, in a worker; the call then never touches the broker.

    Raises:
        Forbidden: a permission or a binding is missing, or the connection is somebody else's.
        NotFound: no such integration, action or connection.
        Invalid: the input does not fit, or the integration is not configured.
        Conflict: the action needs a connection and there is none.
        Failed: the handler raised or took longer than the RPC limit.
        NotReady: no process, node or Redis to ask.
    """
    return actions.execute(
        platform,
        actor,
        integration_id=integration_id,
        action_id=action_id,
        given=given,
        connection_id=connection_id,
        app_id=app_id,
        must_be_bound=must_be_bound,
        agent_user_id=agent_user_id,
        host=host,
    )


def sync_connected_users(
    platform: Platform,
    actor: Actor,
    *,
    integration_id: str,
    action_id: str,
    host: WorkerHost | None = None,
) -> dict[str, Any]:
    """Run an action for every active direct connection, as its owner; administrators only."""
    return actions.sync_connected(
        platform, actor, integration_id=integration_id, action_id=action_id, host=host
    )


def list_permitted(session: Session, permissions: Permissions) -> list[dict[str, Any]]:
    """Return the installed integrations with the actions these permissions allow, by name."""
    found = []
    for integration in installed.everything(session):
        entry = integration.described()
        entry["actions"] = [
            action
            for action in entry["actions"]
            if permissions.match(f"integration:{integration.id}:{action['id']}")
        ]
        if entry["actions"]:
            found.append(entry)
    return found


def listed(session: Session, cipher: Cipher) -> list[dict[str, Any]]:  # Any: JSON values
    """Return the installed integrations by name."""
    return [
        {**found.described(), "configured": config.configured(session, cipher, found)}
        for found in installed.everything(session)
    ]


def configure(
    platform: Platform,
    actor: Actor,
    *,
    integration_id: str,
    values: Mapping[str, Any],  # Any: JSON values
) -> None:
    """Change the platform-wide configuration and let the integration add to it.

    Raises:
        NotFound: it is not installed.
        Invalid: a value does not fit its field.
    """
    with platform.uow() as uow:
        integration = installed.require(uow.session, integration_id)
        config.save(uow, platform.cipher, integration, values)
    try:
        answer = hand_over.run(
            platform,
            actor,
            integration_id=integration_id,
            method=hand_over.BIND,
            params={"configId": None},
        )
        _merge(platform, integration, answer)
    except (AppError, VaultError) as exc:
        # What was asked for is saved; the integration's own part is best effort.
        log.info("integration_bind_skipped", integration=integration_id, reason=str(exc))


def _merge(platform: Platform, integration: Integration, answer: JSON) -> None:
    added = answer.get("mergeConfig") if isinstance(answer, dict) else None
    if isinstance(added, dict):
        with platform.uow() as uow:
            config.save(uow, platform.cipher, integration, added)


# --- webhooks --------------------------------------------------------------------------------


def is_integration(session: Session, app_id: str) -> bool:
    """Tell whether an app is an installed integration."""
    return installed.find(session, app_id) is not None


def call_webhook(
    platform: Platform,
    integration_id: str,
    *,
    headers: Mapping[str, str],
    body: JSON,
    raw_body: str,
    event: str | None,
    owner: Actor | None,
) -> JSON:
    """Hand a webhook to an integration and return its answer.

    Args:
        platform: the process's platform.
        integration_id: an installed integration.
        headers: lower-case names.
        body: the JSON value, else the text.
        raw_body: base64 of the bytes.
        event: name of the manifest's webhook; None for the integration's own token.
        owner: who owns the webhook; None: nobody.

    Raises:
        Failed: ``webhook handler failed``.
        NotReady: no process, node or Redis to ask.
    """
    params = {
        "headers": dict(headers),
        "body": body,
        "rawBody": raw_body,
        "event": event,
        "configId": None,
    }
    try:
        return hand_over.run(
            platform,
            owner,
            integration_id=integration_id,
            method=hand_over.WEBHOOK,
            params=params,
        )
    except HookFailed as exc:
        log.warning("integration_webhook_failed", integration=integration_id, reason=exc.message)
        raise Failed("webhook handler failed") from exc


# --- on the node -----------------------------------------------------------------------------


def is_hook(method: str) -> bool:
    """Tell whether a method is one of those that the platform calls in integrations."""
    return hand_over.is_hook(method)


def fill_call(
    session: Session, cipher: Cipher, *, app_id: str, method: str, params: Mapping[str, Any]
) -> dict[str, Any]:  # Any: JSON values
    """Replace the ids in the parameters of such a call by configuration and credentials.

    Raises:
        NotFound: the integration is gone.
        VaultError: something cannot be decrypted.
    """
    return hand_over.fill(session, cipher, app_id, method, params)


def acting_as(session: Session, actor: Actor | None, *, app_id: str, method: str) -> Actor | None:
    """Return whose rights such a call has: an action may also use the integration's records.

    Raises:
        NotFound: the integration is gone.
    """
    return hand_over.with_records(session, actor, app_id, method)


def seal_answer(cipher: Cipher, *, app_id: str, method: str, value: JSON) -> JSON:
    """Return the answer of such a call as it may travel over the broker."""
    if method not in hand_over.SEALED_ANSWERS:
        return value
    return hand_over.seal(cipher, app_id, value)


# --- subscribers -----------------------------------------------------------------------------


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete connections, bindings, settings and secrets of an app that goes.

    A platform secret stays when another installed integration names it too.
    """
    gone = installed.find(uow.session, event.app_id)
    if gone is not None:
        others = [i for i in installed.everything(uow.session) if i.id != gone.id]
        shared = {name for other in others for name in other.secrets.values()}
        for name in sorted(set(gone.secrets.values()) - shared):
            secrets_service.forget_platform_secret(uow, key=name)
    repository.forget(uow.session, event.app_id)
