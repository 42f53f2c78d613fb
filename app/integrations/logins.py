"""Logging users in at the services behind integrations.

Source: REST contract part 40, section 5.7.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from app.core.actor import Actor
from app.core.clock import utc_now
from app.core.crypto import digest
from app.core.errors import AppError, Failed, Invalid
from app.core.outgoing import OutgoingError
from app.core.platform import Platform
from app.integrations import actions, config, hand_over, installed, repository, safe, tokens
from app.integrations.hand_over import HookFailed
from app.integrations.installed import Integration
from app.integrations.models import OAuthState
from app.integrations.oauth_client import TokenRefused, TokenUnavailable, credentials_of
from app.rbac import service as rbac_service

log = structlog.get_logger(__name__)

CALLBACK: Final = "/api/v1/integrations/auth/callback"
STATE_LIFE: Final = timedelta(seconds=600)
FIRST_SYNC: Final = "sync_connect"
MAX_TEXT: Final = 300
STATE_SCOPE: Final = "_oauth_state"

JSONObject = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class Finished:
    """How a login ended: the status and the one sentence of the page."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class _Login:
    """A login that begins."""

    actor: Actor
    integration: Integration
    config_id: UUID | None
    callback: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))


@dataclass(frozen=True, slots=True)
class _Return:
    """A browser that came back from a service."""

    started: OAuthState
    integration: Integration
    actor: Actor
    query: Mapping[str, str]


class _Ended(Exception):
    """A login ends here; the text is for the person who sees the page."""


def callback_url(platform: Platform) -> str:
    """Return where services send browsers back to; never taken from a request."""
    http = platform.settings.http
    return http.oauth_callback_url or http.public_url.rstrip("/") + CALLBACK


def start(
    platform: Platform, actor: Actor, *, integration_id: str, config_id: str | None
) -> JSONObject:
    """Begin a login; return where to send the browser, or the form to show.

    Raises:
        NotFound: no such integration or configuration.
        Invalid: it has no login of users, or is not configured.
        Failed: the integration's own code could not begin one.
    """
    with platform.uow.reading() as session:
        integration = installed.require(session, integration_id)
        if integration.login is None:
            raise Invalid(f"integration '{integration_id}' has no user login")
        chosen = None if config_id is None else config.require(session, integration, config_id).id
        if integration.login == "credentials":
            return {"type": "credentials", "schema": integration.credentials_schema}
        if not config.configured(session, platform.cipher, integration, chosen):
            raise Invalid(f"integration '{integration_id}' is not configured")
    login = _Login(actor, integration, chosen, callback_url(platform))
    if integration.oauth2 is not None:
        client = tokens.client_of(platform, integration, chosen)
        url = client.authorization_url(
            callback=login.callback, state=login.state, verifier=login.verifier
        )
        answer: JSONObject = {"type": "redirect", "url": url}
    else:
        answer = _ask_worker(platform, login)
    if answer["type"] == "redirect":
        _remember(platform, login)
    return answer


def _ask_worker(platform: Platform, login: _Login) -> JSONObject:
    integration_id = login.integration.id
    params = {
        "configId": _text(login.config_id),
        "callbackUrl": login.callback,
        "userId": _text(login.actor.user_id),
        "sealed": hand_over.seal(platform.cipher, integration_id, {"state": login.state}),
    }
    try:
        found = hand_over.run(
            platform,
            login.actor,
            integration_id=integration_id,
            method=hand_over.AUTH_START,
            params=params,
        )
    except HookFailed as exc:
        raise Failed(f"login could not be started: {exc.message}") from exc
    if isinstance(found, dict):
        if found.get("type") == "redirect" and isinstance(found.get("url"), str):
            return {"type": "redirect", "url": found["url"]}
        if found.get("type") == "credentials" and isinstance(found.get("schema"), dict):
            return {"type": "credentials", "schema": found["schema"]}
    raise Failed("login could not be started: __auth_start returned neither a URL nor a schema")


def _remember(platform: Platform, login: _Login) -> None:
    hashed = digest(login.state)
    nonce, sealed = platform.cipher.encrypt(STATE_SCOPE, hashed.hex(), login.verifier)
    with platform.uow() as uow:
        repository.add_state(
            uow.session,
            state_hash=hashed,
            integration_id=login.integration.id,
            user_id=login.actor.user_id,
            config_id=login.config_id,
            callback_url=login.callback,
            nonce=nonce,
            verifier=sealed,
            expires_at=utc_now() + STATE_LIFE,
        )


def _text(found: UUID | None) -> str | None:
    return None if found is None else str(found)


def finish(platform: Platform, query: Mapping[str, str]) -> Finished:
    """End a login with what the service sent along; every outcome is a page for a person."""
    try:
        back = _returned(platform, query)
        credentials, label = _credentials(platform, back)
    except _Ended as exc:
        return Finished(400, str(exc))
    except TokenUnavailable as exc:
        return Finished(500, f"The login could not be finished: {exc}.")
    except TokenRefused as exc:
        return Finished(400, f"The login could not be finished: {exc}.")
    except AppError as exc:
        return Finished(500, f"The login could not be finished: {exc.message}")
    connection_id = _keep(platform, back, credentials, label)
    problem = _first_sync(platform, back.actor, back.integration, connection_id)
    if problem is not None:
        return Finished(200, f"Connected, but the first sync failed: {problem}")
    return Finished(200, f"Connected to {back.integration.name}. You can close this tab.")


def _returned(platform: Platform, query: Mapping[str, str]) -> _Return:
    """Use a state up and return what it stands for.

    Raises:
        _Ended: it stands for nothing, or the service refused.
    """
    state = query.get("state") or ""
    # A unit of work of its own: the state stays used up whatever goes wrong afterwards.
    with platform.uow() as uow:
        started = repository.take_state(uow.session, digest(state)) if state else None
    if started is None or started.expires_at <= utc_now():
        raise _Ended("This login is unknown, was used already or took too long.")
    if query.get("error"):
        raise _Ended(f"The login was refused: {query['error'][:MAX_TEXT]}")
    with platform.uow.reading() as session:
        integration = installed.find(session, started.integration_id)
        actor = rbac_service.load_actor(session, started.user_id)
    if integration is None or actor is None:
        raise _Ended("This login is not possible any more.")
    if integration.oauth2 is not None and not query.get("code"):
        raise _Ended("The service sent no code.")
    return _Return(started, integration, actor, query)


def _credentials(platform: Platform, back: _Return) -> tuple[JSONObject, str | None]:
    """Return the new credentials and the name of the account."""
    started = back.started
    if back.integration.oauth2 is None:
        return _worker_credentials(platform, back)
    verifier = platform.cipher.decrypt(
        STATE_SCOPE, started.state_hash.hex(), started.nonce, started.verifier
    )
    client = tokens.client_of(platform, back.integration, started.config_id)
    answer = client.exchange(
        code=back.query["code"], callback=started.callback_url, verifier=verifier
    )
    return credentials_of(answer), client.account(answer)


def _worker_credentials(platform: Platform, back: _Return) -> tuple[JSONObject, str | None]:
    integration_id = back.integration.id
    query = hand_over.seal(platform.cipher, integration_id, {"query": dict(back.query)})
    params = {
        "configId": _text(back.started.config_id),
        "callbackUrl": back.started.callback_url,
        "userId": _text(back.actor.user_id),
        "sealed": query,
    }
    found = hand_over.run(
        platform,
        back.actor,
        integration_id=integration_id,
        method=hand_over.AUTH_CALLBACK,
        params=params,
    )
    credentials = found.get("credentials") if isinstance(found, dict) else None
    if not isinstance(credentials, dict):
        raise Failed("__auth_callback returned no credentials")
    label = found.get("label")
    return credentials, label if isinstance(label, str) and label else None


def _keep(platform: Platform, back: _Return, credentials: JSONObject, label: str | None) -> UUID:
    integration_id, started = back.integration.id, back.started
    with platform.uow() as uow:
        connection_id = repository.put_connection(
            uow.session,
            integration_id,
            started.user_id,
            label=label,
            config_id=started.config_id,
        )
        safe.put_credentials(
            uow.session, platform.cipher, integration_id, connection_id, credentials
        )
    log.info("integration_connected", integration=integration_id, user_id=str(started.user_id))
    return connection_id


def _first_sync(
    platform: Platform, actor: Actor, integration: Integration, connection_id: UUID
) -> str | None:
    """Run the integration's first sync, if it has one; return what went wrong."""
    if not integration.has_action(FIRST_SYNC):
        return None
    try:
        result = actions.execute(
            platform,
            actor,
            integration_id=integration.id,
            action_id=FIRST_SYNC,
            given={},
            connection_id=str(connection_id),
        )
    except AppError as exc:
        return f"[{type(exc).__name__.upper()}] {exc.message[:MAX_TEXT]}"
    if not isinstance(result, dict) or result.get("ok") is not False:
        return None
    error = result.get("error") or {}
    return f"[{error.get('code')}] {str(error.get('message'))[:MAX_TEXT]}"


def revoke(
    platform: Platform, *, integration_id: str, given_up: list[tuple[UUID | None, str]]
) -> None:
    """Tell a service that logins were deleted here; best effort."""
    with platform.uow.reading() as session:
        integration = installed.find(session, integration_id)
    if integration is None or not (integration.oauth2 or {}).get("revokeUrl"):
        return
    for config_id, token in given_up:
        try:
            tokens.client_of(platform, integration, config_id).revoke(token)
        except OutgoingError as exc:
            log.warning("integration_not_revoked", integration=integration_id, reason=str(exc))
