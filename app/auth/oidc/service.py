"""Sign-in through identity providers: browser flow, token exchange, nonce exchange.

Every function that calls out takes the unit-of-work factory and holds no transaction meanwhile.

Source: REST contract part 10, sections 6.4 to 6.7.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import service as accounts_service
from app.auth.delivery import NONCE, Delivery, begin_session
from app.auth.models import OIDCState
from app.auth.oidc import accounts, providers, repository, rules
from app.auth.oidc.client import ProviderClient, Registration
from app.auth.oidc.rules import Claims
from app.auth.service import NONCE_TTL, STATE_TTL, Tokens
from app.core.clock import utc_now
from app.core.crypto import Cipher, digest
from app.core.errors import Invalid, Unauthenticated
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from config.settings import AuthSettings

CALLBACK = "/api/v1/auth/oidc/callback"
MAX_ERROR_CODE = 200


@dataclass(frozen=True, slots=True)
class SignIn:
    """What sign-in needs of the process.

    Attributes:
        public_url: our external base URL.
    """

    open_uow: UnitOfWorkFactory
    auth: AuthSettings
    cipher: Cipher
    client: ProviderClient
    public_url: str

    @property
    def callback(self) -> str:
        """Where providers send the browser back to."""
        return self.public_url.rstrip("/") + CALLBACK


def authorize(deps: SignIn, *, provider_id: str, redirect_uri: str, token_delivery: str) -> str:
    """Begin a browser sign-in; return where to send the browser.

    Raises:
        Invalid: tokens may not go to that address.
        NotFound: unknown or disabled provider.
        Failed: the provider cannot be reached.
    """
    rules.check_redirect(redirect_uri, deps.public_url)
    with deps.open_uow() as uow:
        found = providers.enabled(uow.session, provider_id)
        registration = providers.registration(uow.session, deps.cipher, found)
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    location = deps.client.authorization_url(
        registration, callback=deps.callback, state=state, nonce=nonce, pkce_verifier=verifier
    )
    with deps.open_uow() as uow:
        repository.add_state(
            uow.session,
            {
                "state": state,
                "provider_id": provider_id,
                "nonce": nonce,
                "pkce_verifier": verifier,
                "redirect_uri": redirect_uri,
                "token_delivery": token_delivery if token_delivery == NONCE else "",
            },
        )
    return location


def finish(deps: SignIn, *, state: str | None, code: str | None, error: str | None) -> Delivery:
    """End a browser sign-in with what the provider sent along.

    Raises:
        Invalid: ``state`` or ``code`` is missing, or the address belongs to somebody else.
        Unauthenticated: wrong or old state, or the code or the ID token was refused.
        Forbidden: the user is not to be created or not verified.
        NotFound: the provider is gone or disabled.
        Failed: the provider cannot be reached.
    """
    if not state:
        raise Invalid("field 'state' is required")
    if not (code or error):
        raise Invalid("field 'code' is required")
    started = _take_state(deps, state)
    if error:
        return _refused(started, error)
    with deps.open_uow() as uow:
        found = providers.enabled(uow.session, started.provider_id)
        registration = providers.registration(uow.session, deps.cipher, found)
    id_token = deps.client.exchange_code(
        registration,
        code=code or "",
        callback=deps.callback,
        pkce_verifier=started.pkce_verifier,
    )
    claims = deps.client.verify(registration, id_token, nonce=started.nonce)
    return _deliver(deps, started, registration, claims)


def exchange_token(deps: SignIn, *, provider_id: str, id_token: str) -> Tokens:
    """Swap an ID token for an access token; no session begins.

    Raises:
        NotFound: unknown or disabled provider.
        Unauthenticated, Forbidden, Invalid, Failed: as ``finish``.
    """
    with deps.open_uow() as uow:
        found = providers.enabled(uow.session, provider_id)
        registration = providers.registration(uow.session, deps.cipher, found)
    claims = deps.client.verify(registration, id_token)
    with deps.open_uow() as uow:
        found = providers.enabled(uow.session, provider_id)
        user = accounts_service.shown(accounts.resolve(uow, found, claims))
        security.record(
            uow.session,
            SecurityEventKind.TOKEN_EXCHANGED,
            actor_id=user.id,
            subject_id=user.id,
            provider=provider_id,
        )
        return accounts_service.access_only(deps.auth, user)


def exchange_nonce(uow: UnitOfWork, auth: AuthSettings, *, nonce: str) -> Tokens:
    """Swap a one-time nonce for the tokens of the session it stands for.

    Raises:
        Unauthenticated: unknown, used or expired, or session or user are gone.
    """
    now = utc_now()
    taken = repository.take_nonce(uow.session, digest(nonce), not_before=now - NONCE_TTL, now=now)
    user = accounts_service.find_enabled(uow.session, taken[0]) if taken else None
    if taken is None or user is None:
        raise Unauthenticated("invalid or expired nonce")
    return accounts_service.session_tokens(auth, user, taken[1])


def _take_state(deps: SignIn, state: str) -> OIDCState:
    # A unit of work of its own: the state stays used up whatever goes wrong afterwards.
    with deps.open_uow() as uow:
        started = repository.take_state(uow.session, state) if "\0" not in state else None
    if started is None:
        raise Unauthenticated("invalid or already used state")
    if utc_now() - started.created_at > STATE_TTL:
        raise Unauthenticated("sign-in took too long")
    return started


def _refused(started: OIDCState, error: str) -> Delivery:
    code = error[:MAX_ERROR_CODE]
    if not started.redirect_uri:
        raise Unauthenticated(f"the identity provider refused the sign-in: {code}")
    return Delivery(rules.with_query(started.redirect_uri, {"error": code}))


def _deliver(
    deps: SignIn, started: OIDCState, registration: Registration, claims: Claims
) -> Delivery:
    with deps.open_uow() as uow:
        found = providers.enabled(uow.session, registration.provider_id)
        user = accounts_service.shown(accounts.resolve(uow, found, claims))
        security.record(
            uow.session,
            SecurityEventKind.LOGIN_SUCCEEDED,
            actor_id=user.id,
            subject_id=user.id,
            provider=found.id,
        )
        return begin_session(
            uow,
            deps.auth,
            user,
            redirect_uri=started.redirect_uri,
            token_delivery=started.token_delivery,
        )
