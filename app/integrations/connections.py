"""Connections of users, bindings to apps, and which connection an action uses.

Source: REST contract part 40, section 5.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.auth.events import UserDeleting
from app.core import json_schema
from app.core.actor import Actor
from app.core.crypto import Cipher
from app.core.errors import Forbidden, Invalid, NotFound, missing_permission
from app.core.ids import UUID_TEXT, agent_user_id, parse_uuid
from app.core.uow import UnitOfWork
from app.integrations import installed, repository, safe
from app.integrations.installed import Integration
from app.integrations.models import AppIntegration, IntegrationConnection

JSONObject = Mapping[str, Any]  # Any: JSON values
LABEL_FIELDS = ("username", "email")


# --- which connection an action uses ---------------------------------------------------------


def resolve(
    session: Session,
    actor: Actor,
    integration_id: str,
    *,
    connection_id: str | None = None,
    app_id: str | None = None,
    must_be_bound: bool = False,
    agent_user_id: UUID | None = None,
) -> IntegrationConnection | None:
    """Return the connection an action of the actor uses, or None.

    Args:
        session: the session.
        actor: who acts.
        integration_id: an installed integration.
        connection_id: the actor's own choice.
        app_id: the app the call is made for.
        must_be_bound: whether that app needs a binding.
        agent_user_id: the principal of the agent that runs, if one does.

    Raises:
        Forbidden: it is somebody else's, or the app is not bound.
        NotFound: no connection of that id.
    """
    bound = (
        None
        if app_id is None
        else repository.binding(session, app_id, integration_id, actor.user_id)
    )
    if bound is None and must_be_bound:
        raise Forbidden(f"app '{app_id}' is not bound to '{integration_id}'")
    if connection_id is not None:
        return own(session, actor, integration_id, connection_id)
    if bound is not None and bound.connection_id is not None:
        return _bound(session, actor, integration_id, bound.connection_id)
    mine = None if actor.user_id is None else _personal(session, integration_id, actor.user_id)
    if mine is None and agent_user_id is not None:
        return repository.delegation(session, integration_id, agent_user_id)
    return mine


def _personal(session: Session, integration_id: str, user_id: UUID) -> IntegrationConnection | None:
    """Return what was lent to a principal, or else its oldest active connection."""
    lent = repository.delegation(session, integration_id, user_id)
    if lent is not None:
        return lent
    active = repository.direct(session, integration_id, user_id, status=repository.ACTIVE)
    return active[0] if active else None


def _bound(
    session: Session, actor: Actor, integration_id: str, connection_id: UUID
) -> IntegrationConnection | None:
    found = repository.connection(session, integration_id, connection_id)
    if found is not None and found.user_id != actor.user_id:
        actor.require(f"integration:{integration_id}:manage")
    return found


def own(
    session: Session, actor: Actor, integration_id: str, connection_id: str
) -> IntegrationConnection:
    """Return a connection that belongs to the actor.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: there is none of that id.
        Forbidden: it is somebody else's.
    """
    found = repository.connection(session, integration_id, parse_uuid(connection_id))
    if found is None or found.kind != repository.DIRECT:
        raise NotFound("connection not found")
    if found.user_id != actor.user_id:
        raise Forbidden("connection belongs to another user")
    return found


# --- connections -----------------------------------------------------------------------------


def status(
    session: Session, actor: Actor, integration_id: str, *, agent_app_id: str | None = None
) -> dict[str, Any]:
    """Return how many logins a user has, by state."""
    installed.require(session, integration_id)
    rows = repository.direct(session, integration_id, _whose(actor, agent_app_id))
    active = sum(row.status == repository.ACTIVE for row in rows)
    return {
        "connected": active > 0,
        "connection_count": active,
        "dead_count": len(rows) - active,
    }


def _whose(actor: Actor, agent_app_id: str | None) -> UUID:
    """Return the actor's id, or that of an agent an administrator looks at."""
    if agent_app_id is not None:
        actor.require_admin()
        return agent_user_id(agent_app_id)
    return _user(actor)


def _user(actor: Actor) -> UUID:
    if actor.user_id is None:
        raise Forbidden("this needs an authenticated caller")
    return actor.user_id


def store_credentials(
    uow: UnitOfWork,
    cipher: Cipher,
    actor: Actor,
    *,
    integration_id: str,
    credentials: JSONObject,
    label: str | None,
) -> UUID:
    """Keep what a user typed in; the same label again replaces it.

    Raises:
        NotFound: the integration is not installed.
        Invalid: it has no such login, or the credentials do not fit its schema.
    """
    integration = installed.require(uow.session, integration_id)
    if integration.login is None:
        raise Invalid(f"integration '{integration_id}' has no user login")
    if integration.login != "credentials":
        raise Invalid(f"integration '{integration_id}' uses a redirect login")
    filled = json_schema.with_defaults(integration.credentials_schema, credentials)
    json_schema.check(integration.credentials_schema, filled, "credentials")
    named = label or next(
        (filled[f] for f in LABEL_FIELDS if isinstance(filled.get(f), str) and filled[f]), None
    )
    connection_id = repository.put_connection(
        uow.session, integration_id, _user(actor), label=named
    )
    safe.put_credentials(uow.session, cipher, integration_id, connection_id, filled)
    return connection_id


def listed(session: Session, actor: Actor, integration_id: str) -> list[IntegrationConnection]:
    """Return the actor's own connections, oldest first."""
    installed.require(session, integration_id)
    return repository.direct(session, integration_id, _user(actor))


def relabel(
    uow: UnitOfWork, actor: Actor, *, integration_id: str, connection_id: str, label: str | None
) -> None:
    """Change the label of an own connection; absent: nothing changes.

    Raises:
        Invalid: another own connection has that label.
    """
    installed.require(uow.session, integration_id)
    found = own(uow.session, actor, integration_id, connection_id)
    if label is None or label == found.label:
        return
    others = repository.direct(uow.session, integration_id, found.user_id)
    if any(other.label == label for other in others):
        raise Invalid("another connection has this label")
    repository.change_connection(uow.session, found.id, {"label": label})


def delete(uow: UnitOfWork, actor: Actor, *, integration_id: str, connection_id: str) -> None:
    """Delete an own connection with its credentials and bindings."""
    installed.require(uow.session, integration_id)
    _remove(uow, own(uow.session, actor, integration_id, connection_id))


def disconnect(
    uow: UnitOfWork,
    cipher: Cipher,
    actor: Actor,
    *,
    integration_id: str,
    agent_app_id: str | None = None,
) -> list[tuple[UUID | None, str]]:
    """Delete all of a user's connections with their credentials. Idempotent.

    Returns:
        Configuration and token of each, for a revocation at the provider.
    """
    installed.require(uow.session, integration_id)
    tokens: list[tuple[UUID | None, str]] = []
    for row in repository.direct(uow.session, integration_id, _whose(actor, agent_app_id)):
        kept = safe.credentials(uow.session, cipher, integration_id, row.id) or {}
        token = kept.get("refresh_token") or kept.get("access_token")
        if isinstance(token, str):
            tokens.append((row.config_id, token))
        _remove(uow, row)
    return tokens


def _remove(uow: UnitOfWork, row: IntegrationConnection) -> None:
    safe.forget_credentials(uow.session, row.integration_id, row.id)
    repository.remove_connection(uow.session, row.id)


def delegate(uow: UnitOfWork, actor: Actor, *, integration_id: str, agent_app_id: str) -> None:
    """Lend the actor's oldest active connection to an agent; again replaces it.

    Raises:
        NotFound: no such integration or agent.
        Invalid: the actor has no active connection.
    """
    installed.require(uow.session, integration_id)
    if not apps_service.has_agent(uow.session, agent_app_id):
        raise NotFound(f"app '{agent_app_id}' has no agent")
    active = repository.direct(uow.session, integration_id, _user(actor), status=repository.ACTIVE)
    if not active:
        raise Invalid("connect this integration first")
    agent = agent_user_id(agent_app_id)
    repository.put_delegation(uow.session, integration_id, agent, active[0].id)


def connected_users(session: Session, integration_id: str) -> list[str]:
    """Return the ids of the users with own connections."""
    installed.require(session, integration_id)
    return [str(user_id) for user_id in repository.connected_users(session, integration_id)]


def forget_user(uow: UnitOfWork, event: UserDeleting) -> None:
    """Delete the logins of a user who is about to go."""
    for row in repository.of_user(uow.session, event.user_id):
        _remove(uow, row)
    repository.forget_user(uow.session, event.user_id)


# --- bindings --------------------------------------------------------------------------------


def bindings(session: Session, actor: Actor, app_id: str) -> list[AppIntegration]:
    """Return an app's bindings; those of other users only to administrators.

    Raises:
        NotFound: the app is not installed.
    """
    apps_service.require(session, app_id)
    return repository.bindings(session, app_id, user_id=None if actor.is_admin else _user(actor))


def bind(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    integration_id: str,
    connection_id: str | None,
    personal: bool,
) -> None:
    """Bind an integration to an app, for the actor or for everybody; again replaces it.

    Raises:
        Forbidden: an app-wide binding needs the integration's ``manage`` key.
        NotFound: no such app or integration.
        Invalid: the connection is missing or not the actor's.
    """
    if not personal:
        actor.require(f"integration:{integration_id}:manage")
    apps_service.require(uow.session, app_id)
    integration = installed.require(uow.session, integration_id)
    if connection_id is None:
        if personal:
            raise Invalid("a user binding needs connectionId")
        chosen = None
    else:
        chosen = _chosen(uow.session, actor, integration, connection_id)
    scope = str(_user(actor)) if personal else ""
    repository.put_binding(uow.session, app_id, integration_id, scope, chosen)


def _chosen(session: Session, actor: Actor, integration: Integration, connection_id: str) -> UUID:
    wrong = Invalid("connection not found or not yours")
    if UUID_TEXT.fullmatch(connection_id) is None:
        raise wrong
    found = repository.connection(session, integration.id, UUID(connection_id))
    if found is None or found.kind != repository.DIRECT or found.user_id != actor.user_id:
        raise wrong
    return found.id


def unbind(
    uow: UnitOfWork, actor: Actor, *, app_id: str, integration_id: str, personal: bool
) -> None:
    """Delete a binding. Idempotent.

    Raises:
        Forbidden: an app-wide binding needs the integration's ``manage`` key.
    """
    manage = f"integration:{integration_id}:manage"
    if not personal and not actor.can(manage):
        raise missing_permission(manage)
    scope = str(_user(actor)) if personal else ""
    repository.remove_binding(uow.session, app_id, integration_id, scope)
