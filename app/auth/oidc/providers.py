"""Use cases on identity providers: save, delete, look up.

Source: REST contract part 10, sections 6.1 to 6.3.
"""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth.models import OIDCProvider
from app.auth.oidc import repository, rules
from app.auth.oidc.client import ProviderClient, Registration
from app.core import vault
from app.core.actor import Actor
from app.core.crypto import Cipher
from app.core.errors import Invalid, NotFound
from app.core.outgoing import OutgoingError
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from config.settings import OIDCSettings

log = structlog.get_logger(__name__)

CLIENT_SECRET = "client_secret"  # noqa: S105 - the name of a vault entry
DEFAULT_ID = "default"
REQUIRED = {
    "display_name": "displayName is required",
    "issuer_url": "issuerUrl is required",
    "client_id": "clientId is required",
}


def save(
    open_uow: UnitOfWorkFactory,
    cipher: Cipher,
    client: ProviderClient,
    actor: Actor,
    *,
    provider_id: str,
    client_secret: str | None,
    **values: Any,  # Any: the columns of a provider
) -> None:
    """Create or replace a provider after its discovery document was checked.

    Args:
        open_uow: opens the unit of work that writes; none is open while we call out.
        cipher: of the vault.
        client: fetches the discovery document.
        actor: an administrator.
        provider_id: 1-64 characters.
        client_secret: None keeps the stored one, an empty text removes it.
        values: every other column; what a client left out is at its default.

    Raises:
        Invalid: a field breaks a rule, or the discovery document is not what it should be.
    """
    actor.require_admin()
    rules.check_provider_id(provider_id)
    for name, text in REQUIRED.items():
        if not values[name].strip():
            raise Invalid(text)
    rules.check_issuer(values["issuer_url"])
    _check_discovery(client, values["issuer_url"])
    with open_uow() as uow:
        repository.put_provider(uow.session, {"id": provider_id, **values})
        if client_secret:
            vault.put(uow.session, cipher, vault_scope(provider_id), CLIENT_SECRET, client_secret)
        elif client_secret is not None:
            vault.delete(uow.session, vault_scope(provider_id), CLIENT_SECRET)
        security.record(
            uow.session,
            SecurityEventKind.PROVIDER_SAVED,
            actor_id=actor.user_id,
            provider=provider_id,
            issuer=values["issuer_url"],
            enabled=values["enabled"],
        )


def ensure_default(uow: UnitOfWork, cipher: Cipher, oidc: OIDCSettings) -> None:
    """Create the provider ``default`` from the settings unless there is one. Idempotent.

    The provider is not asked: a start must not depend on it.

    Source: REST contract part 10, section 6.8.
    """
    if not oidc.issuer or repository.provider(uow.session, DEFAULT_ID) is not None:
        return
    repository.put_provider(
        uow.session,
        {
            "id": DEFAULT_ID,
            "display_name": "Single sign-on",
            "issuer_url": oidc.issuer,
            "client_id": oidc.client_id,
        },
    )
    vault.put(uow.session, cipher, vault_scope(DEFAULT_ID), CLIENT_SECRET, oidc.client_secret)
    security.record(
        uow.session,
        SecurityEventKind.PROVIDER_SAVED,
        provider=DEFAULT_ID,
        issuer=oidc.issuer,
        enabled=True,
    )


def delete(
    uow: UnitOfWork, client: ProviderClient, actor: Actor, *, provider_id: str, force: bool
) -> None:
    """Delete a provider with its secret and the sign-ins under way; users and links stay.

    Raises:
        NotFound: no such provider.
        Invalid: users are linked and ``force`` is off.
    """
    actor.require_admin()
    found = repository.provider(uow.session, provider_id)
    if found is None:
        raise unknown(provider_id)
    linked = repository.count_linked(uow.session, provider_id)
    if linked and not force:
        raise Invalid(
            f"{linked} user(s) sign in through this provider;"
            " repeat with ?force=true to delete it anyway"
        )
    repository.delete_provider(uow.session, provider_id)
    vault.delete_scope(uow.session, vault_scope(provider_id))
    security.record(
        uow.session,
        SecurityEventKind.PROVIDER_DELETED,
        actor_id=actor.user_id,
        provider=provider_id,
    )
    uow.after_commit(lambda: client.forget(found.issuer_url))


def enabled(session: Session, provider_id: str) -> OIDCProvider:
    """Return a provider one may sign in through.

    Raises:
        NotFound: unknown or disabled.
    """
    found = repository.provider(session, provider_id)
    if found is None or not found.enabled:
        raise unknown(provider_id)
    return found


def registration(session: Session, cipher: Cipher, found: OIDCProvider) -> Registration:
    """Return how we are known to a provider, the decrypted client secret included."""
    return Registration(
        provider_id=found.id,
        issuer_url=found.issuer_url,
        client_id=found.client_id,
        client_secret=vault.get(session, cipher, vault_scope(found.id), CLIENT_SECRET),
        scopes=tuple(found.scopes),
    )


def vault_scope(provider_id: str) -> str:
    """Return the scope of a provider's secrets in the vault."""
    return f"oidc:{provider_id}"


def unknown(provider_id: str) -> NotFound:
    """Return the error of a provider that is not there, or not for this purpose."""
    return NotFound(f"provider '{provider_id}' not found")


def _check_discovery(client: ProviderClient, issuer_url: str) -> None:
    client.forget(issuer_url)
    try:
        metadata = client.load_metadata(issuer_url)
    except OutgoingError as exc:
        log.info("oidc_discovery_refused", reason=str(exc))
        raise Invalid("discovery document could not be loaded") from exc
    if metadata.issuer != issuer_url:
        raise Invalid("issuer does not match the discovery document")
