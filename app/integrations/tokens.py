"""Keeping the tokens of connections fresh: one refresh at a time per connection.

The right to refresh is a lease on the connection's row, not a lock: nobody holds a transaction
or a database connection while the authorization server thinks.

Source: REST contract part 40, section 5.7 (Refresh); ADR 0013.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from app.core.clock import utc_now
from app.core.errors import NotFound
from app.core.outgoing import Outgoing
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.integrations import config, repository, safe
from app.integrations.installed import Integration
from app.integrations.oauth_client import (
    OAuthClient,
    TokenRefused,
    TokenUnavailable,
    credentials_of,
)

log = structlog.get_logger(__name__)

EXPIRES_SOON_S: Final = 60
LEASE: Final = timedelta(seconds=30)
WAIT_S: Final = 25.0
POLL_S: Final = 0.1
MAX_ERROR: Final = 500

JSONObject = dict[str, Any]  # Any: JSON values


class LoginRejected(Exception):
    """The connection is dead; its user has to log in again."""


class LoginUnavailable(Exception):
    """The tokens could not be renewed now; later they may."""


def client_of(platform: Platform, integration: Integration, config_id: UUID | None) -> OAuthClient:
    """Return the OAuth client of a configuration."""
    with platform.uow.reading() as session:
        values = config.resolve(session, platform.cipher, integration, config_id)
        stored = config.stored(session, platform.cipher, integration, config_id)
    outgoing = Outgoing(platform.settings.http.outgoing_networks)
    return OAuthClient(integration, values, stored, outgoing)


def ensure_fresh(
    platform: Platform,
    integration: Integration,
    connection_id: UUID,
    *,
    refused: str | None = None,
) -> str | None:
    """See to it that a connection's access token is good for another minute.

    Of several callers one asks the server; the others wait for what it gets.

    Args:
        platform: the process's platform.
        integration: whose connection.
        connection_id: an active connection made through OAuth.
        refused: an access token the service did not accept although it looked fresh.

    Returns:
        The access token.

    Raises:
        LoginRejected: the connection is dead.
        LoginUnavailable: the server is away or does not work.
        NotFound: the connection is gone.
    """
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with platform.uow() as uow:
            kept = _credentials(platform, uow, integration, connection_id)
            if _is_fresh(kept, refused):
                return kept.get("access_token")
            now = utc_now()
            claimed = repository.claim_refresh(
                uow.session, connection_id, now=now, until=now + LEASE
            )
            # Somebody may have finished between the look and the claim.
            kept = _credentials(platform, uow, integration, connection_id)
            if claimed and _is_fresh(kept, refused):
                _release(uow, connection_id)
                return kept.get("access_token")
        if claimed:
            return _refresh(platform, integration, connection_id, kept)
        time.sleep(POLL_S)
    raise LoginUnavailable("the login is being renewed; try again")


def mark_dead(uow: UnitOfWork, connection_id: UUID, reason: str) -> None:
    """Remember that a connection's login is not accepted any more."""
    values = {
        "status": repository.DEAD,
        "last_error": reason[:MAX_ERROR],
        "last_error_at": utc_now(),
        "refreshing_until": None,
    }
    repository.change_connection(uow.session, connection_id, values)


def _credentials(
    platform: Platform, uow: UnitOfWork, integration: Integration, connection_id: UUID
) -> JSONObject:
    uow.session.expire_all()
    row = repository.connection(uow.session, integration.id, connection_id)
    kept = safe.credentials(uow.session, platform.cipher, integration.id, connection_id)
    if row is None or kept is None:
        raise NotFound("connection not found")
    if row.status == repository.DEAD:
        raise LoginRejected(row.last_error or "the login was rejected")
    return kept


def _is_fresh(kept: JSONObject, refused: str | None) -> bool:
    if refused is not None and kept.get("access_token") == refused:
        return False
    expires_at = kept.get("expires_at")
    return expires_at is None or expires_at - time.time() > EXPIRES_SOON_S


def _release(uow: UnitOfWork, connection_id: UUID) -> None:
    repository.change_connection(uow.session, connection_id, {"refreshing_until": None})


def _refresh(
    platform: Platform, integration: Integration, connection_id: UUID, kept: JSONObject
) -> str | None:
    with platform.uow.reading() as session:
        row = repository.connection(session, integration.id, connection_id)
        config_id = None if row is None else row.config_id
    try:
        client = client_of(platform, integration, config_id)
        answer = client.refresh(kept.get("refresh_token"))
    except TokenRefused as exc:
        log.warning("integration_login_dead", integration=integration.id, reason=str(exc))
        with platform.uow() as uow:
            mark_dead(uow, connection_id, str(exc))
        raise LoginRejected(str(exc)) from exc
    except TokenUnavailable as exc:
        with platform.uow() as uow:
            _release(uow, connection_id)
        raise LoginUnavailable(str(exc)) from exc
    new = credentials_of(answer)
    renewed = {**kept, **new, "scope": new["scope"] or kept.get("scope")}
    with platform.uow() as uow:
        safe.put_credentials(uow.session, platform.cipher, integration.id, connection_id, renewed)
        _release(uow, connection_id)
    log.info("integration_login_renewed", integration=integration.id)
    return str(renewed["access_token"])
