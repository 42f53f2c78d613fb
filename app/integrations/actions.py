"""Running an action: checks, connection, fresh tokens, the worker, what its answer means.

Source: REST contract part 40, sections 5.5, 5.6 and 5.9.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.core import json_schema
from app.core.actor import Actor
from app.core.crypto import VaultError
from app.core.errors import AppError, Conflict, Failed, Invalid
from app.core.platform import Platform
from app.integrations import config, connections, hand_over, installed, repository, safe, tokens
from app.integrations.hand_over import HookFailed
from app.integrations.installed import Integration
from app.integrations.models import IntegrationConnection
from app.integrations.tokens import LoginRejected, LoginUnavailable
from app.rbac import service as rbac_service
from app.workers.service import WorkerHost

log = structlog.get_logger(__name__)

REJECTED: Final = "INSUFFICIENT_PERMISSIONS"
TEMPORARY: Final = "TEMPORARY_ERROR"
UNAUTHORIZED: Final = 401
SYNCS_AT_ONCE: Final = 4

JSON = Any  # Any: a JSON value


@dataclass(frozen=True, slots=True)
class Used:
    """The connection an action uses."""

    id: UUID
    config_id: UUID | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An action that may run.

    Attributes:
        given: the input with defaults filled in.
        connection: whose login it uses; None: none.
    """

    integration: Integration
    action_id: str
    given: JSON
    connection: Used | None


def execute(
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
    """Run an action as the actor and return its result; see ``service.execute_action``."""
    actor.require(f"integration:{integration_id}:{action_id}")
    if actor.app_scope is not None:
        app_id, must_be_bound = actor.app_scope, True
    prepared = _prepare(
        platform,
        actor,
        integration_id=integration_id,
        action_id=action_id,
        given=given,
        connection_id=connection_id,
        app_id=app_id,
        must_be_bound=must_be_bound,
        agent_user_id=agent_user_id,
    )
    try:
        result = _run_fresh(platform, actor, prepared, host)
    except HookFailed as exc:
        _note(actor, prepared, "timeout" if exc.timed_out else "failed")
        text = "action timed out" if exc.timed_out else f"action failed: {exc.message}"
        raise Failed(text) from exc
    error = _error(result)
    _note(actor, prepared, "ok" if error is None else str(error.get("code")))
    if error is not None and error.get("code") == REJECTED:
        _bury(platform, prepared.connection, str(error.get("message") or REJECTED))
    return result


def _prepare(
    platform: Platform,
    actor: Actor,
    *,
    integration_id: str,
    action_id: str,
    given: JSON,
    **choice: Any,  # Any: keywords of ``connections.resolve``
) -> Prepared:
    with platform.uow.reading() as session:
        integration = installed.require(session, integration_id)
        action = integration.action(action_id)
        schema = action.get("inputSchema") or {}
        filled = json_schema.with_defaults(schema, given)
        json_schema.check(schema, filled, "input")
        found = connections.resolve(session, actor, integration_id, **choice)
        config_id = None if found is None else found.config_id
        if not config.configured(session, platform.cipher, integration, config_id):
            raise Invalid(f"integration '{integration_id}' is not configured")
        if integration.needs_connection(action) and not _usable(found):
            raise Conflict(f"not connected to '{integration_id}'")
        used = None if found is None else Used(found.id, found.config_id)
    return Prepared(integration, action_id, filled, used)


def _usable(found: IntegrationConnection | None) -> bool:
    return found is not None and found.status == repository.ACTIVE


def _run_fresh(
    platform: Platform, actor: Actor, prepared: Prepared, host: WorkerHost | None
) -> JSON:
    """Run with a fresh token; once more with a new one when the service refuses that token."""
    if prepared.connection is None or prepared.integration.oauth2 is None:
        return _run(platform, actor, prepared, host)
    try:
        token = tokens.ensure_fresh(platform, prepared.integration, prepared.connection.id)
        result = _run(platform, actor, prepared, host)
        error = _error(result)
        if (
            error is None
            or error.get("status") != UNAUTHORIZED
            or not _renewable(platform, prepared)
        ):
            return result
        # Nothing was done with a token that was refused, so running again is safe.
        tokens.ensure_fresh(platform, prepared.integration, prepared.connection.id, refused=token)
        return _run(platform, actor, prepared, host)
    except LoginRejected as exc:
        return _failure(REJECTED, str(exc))
    except LoginUnavailable as exc:
        return _failure(TEMPORARY, str(exc))


def _renewable(platform: Platform, prepared: Prepared) -> bool:
    if prepared.connection is None:
        return False
    with platform.uow.reading() as session:
        kept = safe.credentials(
            session, platform.cipher, prepared.integration.id, prepared.connection.id
        )
    return bool(kept and kept.get("refresh_token"))


def _run(platform: Platform, actor: Actor, prepared: Prepared, host: WorkerHost | None) -> JSON:
    connection = prepared.connection
    params = {
        "action": prepared.action_id,
        "input": prepared.given,
        "userId": None if actor.user_id is None else str(actor.user_id),
        "connectionId": None if connection is None else str(connection.id),
        "configId": None
        if connection is None or connection.config_id is None
        else str(connection.config_id),
    }
    return hand_over.run(
        platform,
        actor,
        integration_id=prepared.integration.id,
        method=hand_over.ACTION,
        params=params,
        key=f"integration:{prepared.integration.id}:{prepared.action_id}",
        host=host,
    )


def _error(result: JSON) -> dict[str, Any] | None:
    """Return the error of a result that says ``ok: false``."""
    if not isinstance(result, dict) or result.get("ok") is not False:
        return None
    error = result.get("error")
    return error if isinstance(error, dict) else {}


def _failure(code: str, message: str) -> JSON:
    return {"ok": False, "error": {"code": code, "message": message}}


def _bury(platform: Platform, connection: Used | None, reason: str) -> None:
    if connection is not None:
        with platform.uow() as uow:
            tokens.mark_dead(uow, connection.id, reason)


def _note(actor: Actor, prepared: Prepared, outcome: str) -> None:
    connection = prepared.connection
    log.info(
        "integration_action",
        user_id=None if actor.user_id is None else str(actor.user_id),
        integration=prepared.integration.id,
        action=prepared.action_id,
        connection_id=None if connection is None else str(connection.id),
        outcome=outcome,
    )


def sync_connected(
    platform: Platform,
    actor: Actor,
    *,
    integration_id: str,
    action_id: str,
    host: WorkerHost | None = None,
) -> dict[str, Any]:
    """Run an action once for every active direct connection, as its owner.

    A failure of one does not stop the others.

    Raises:
        Forbidden: the actor is no administrator.
        NotFound: no such integration or action.
    """
    actor.require_admin()
    with platform.uow.reading() as session:
        installed.require(session, integration_id).action(action_id)
        rows = repository.active_direct(session, integration_id)
    run = partial(_as_owner, platform, integration_id, action_id, host)
    with ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="sync") as pool:
        synced = sum(pool.map(run, [(row.id, row.user_id) for row in rows]))
    return {"ok": True, "synced": synced}


def _as_owner(
    platform: Platform,
    integration_id: str,
    action_id: str,
    host: WorkerHost | None,
    connection: tuple[UUID, UUID],
) -> bool:
    """Run an action for one connection as its owner; tell whether it succeeded."""
    connection_id, user_id = connection
    try:
        with platform.uow.reading() as session:
            owner = rbac_service.load_actor(session, user_id)
        if owner is None:
            return False
        result = execute(
            platform,
            owner,
            integration_id=integration_id,
            action_id=action_id,
            given={},
            connection_id=str(connection_id),
            host=host,
        )
    except (AppError, SQLAlchemyError, VaultError) as exc:
        log.warning("integration_sync_failed", integration=integration_id, reason=str(exc)[:200])
        return False
    return _error(result) is None
