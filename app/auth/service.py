"""Accounts and sessions: register, sign in, refresh, sign out.

Functions that hash a password take the unit-of-work factory instead of a unit of work: a hash
takes tens of milliseconds and may have to wait, and no connection is held meanwhile.

Source: REST contract part 10, sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import identities, repository, tokens
from app.auth.events import UserCreated
from app.auth.models import User
from app.auth.passwords import PasswordHasher
from app.auth.throttle import Throttle
from app.core.actor import Actor, Kind
from app.core.clock import utc_now
from app.core.errors import INVALID_CREDENTIAL, Forbidden, Invalid, Unauthenticated
from app.core.ids import SYSTEM_USER_ID
from app.core.locks import AdvisoryLock, lock
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from config.settings import AuthSettings

log = structlog.get_logger(__name__)

WRONG_CREDENTIALS = "invalid email or password"
STATE_TTL = timedelta(minutes=10)
NONCE_TTL = timedelta(seconds=30)
LINK_KEPT = timedelta(days=7)  # after its expiry

# Other slices write to the security log through here; the log itself lies below.
record_security_event = security.record


@dataclass(frozen=True, slots=True)
class Principal:
    """A principal as the API shows it."""

    id: UUID
    email: str
    display_name: str | None
    created_at: datetime
    kind: Kind


@dataclass(frozen=True, slots=True)
class Tokens:
    """The answer to a sign-in; without a refresh token where no session was begun."""

    access_token: str
    expires_in: int
    user: Principal
    refresh_token: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderButton:
    """What a login page needs to offer a provider."""

    id: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Mode:
    """How one may sign in here."""

    auth_required: bool
    setup_required: bool
    password_login_enabled: bool
    providers: list[ProviderButton]
    magic_link_enabled: bool = True


def register(
    open_uow: UnitOfWorkFactory,
    auth: AuthSettings,
    hasher: PasswordHasher,
    *,
    email: object,
    password: str,
    display_name: str | None,
    client_address: str | None,
) -> Principal:
    """Create a human with a password; the first one becomes administrator.

    Raises:
        Invalid: the address, the password or the name breaks a rule, or the address is taken.
        Forbidden: password login is turned off and somebody has registered already.
    """
    with open_uow() as uow:
        _check_registration_open(uow.session, auth)
        address = identities.normalize_email(email)
        identities.check_not_reserved(address)
        identities.check_password(password)
        identities.check_display_name(display_name)
        if repository.user_by_email(uow.session, address) is not None:
            raise _taken(address)
    password_hash = hasher.hash(password)
    with open_uow() as uow:
        if auth.disable_password_login:
            lock(uow.session, AdvisoryLock.ADMINS)
            _check_registration_open(uow.session, auth)
        user = repository.add_human(
            uow.session, email=address, display_name=display_name, password_hash=password_hash
        )
        if user is None:
            raise _taken(address)
        security.record(
            uow.session,
            SecurityEventKind.USER_REGISTERED,
            subject_id=user.id,
            client_address=client_address,
            email=address,
        )
        uow.emit(UserCreated(user.id))
        return shown(user)


def login(
    open_uow: UnitOfWorkFactory,
    auth: AuthSettings,
    hasher: PasswordHasher,
    throttle: Throttle,
    *,
    email: str,
    password: str,
    client_address: str | None,
) -> Tokens:
    """Sign a human in by password and begin a session.

    Raises:
        Forbidden: password login is turned off.
        TooMany: too many failures lately.
        Unauthenticated: unknown or disabled account, no password set, or a wrong one; all of
            them with the same text and in comparable time.
    """
    if auth.disable_password_login:
        raise Forbidden("password login is turned off")
    address = email.strip().lower()
    with throttle.attempt(client_address, address) as recheck:
        with open_uow() as uow:
            user = None if "\0" in address else repository.user_by_email(uow.session, address)
        stored = user.password_hash if user is not None and _may_sign_in(user) else None
        if not hasher.verify(stored, password, admit=recheck) or user is None or stored is None:
            _log_failed_login(open_uow, user, client_address)
            raise Unauthenticated(WRONG_CREDENTIALS)
        renewed = hasher.hash(password) if hasher.is_outdated(stored) else None
        with open_uow() as uow:
            if renewed is not None:
                repository.set_password_hash(uow.session, user.id, stored, renewed)
            return _begin_password_session(uow, auth, user.id, client_address)


def start_session(uow: UnitOfWork, auth: AuthSettings, user: Principal) -> Tokens:
    """Begin a session of an enabled human and return its tokens."""
    return session_tokens(auth, user, open_session(uow, auth, user))


def open_session(uow: UnitOfWork, auth: AuthSettings, user: Principal) -> UUID:
    """Begin a session of an enabled human and return its id."""
    return repository.add_session(uow.session, user.id, utc_now() + auth.session_ttl)


def access_only(auth: AuthSettings, user: Principal) -> Tokens:
    """Return a fresh access token of an enabled principal, without a session."""
    return Tokens(
        access_token=tokens.mint_access_token(auth, user.id, user.email),
        expires_in=expires_in(auth),
        user=user,
    )


def session_tokens(auth: AuthSettings, user: Principal, session_id: UUID) -> Tokens:
    """Return the tokens of a session that exists."""
    return Tokens(
        access_token=tokens.mint_access_token(auth, user.id, user.email),
        refresh_token=tokens.mint_refresh_token(auth, user.id, session_id),
        expires_in=expires_in(auth),
        user=user,
    )


def expires_in(auth: AuthSettings) -> int:
    """Return the lifetime of an access token in seconds."""
    return int(auth.access_ttl.total_seconds())


def refresh(uow: UnitOfWork, auth: AuthSettings, *, refresh_token: str) -> Tokens:
    """Return a new access token for a live session; the session itself is not prolonged.

    Raises:
        Unauthenticated: the token is wrong, the session has ended, or the account is gone or
            disabled.
    """
    claims = tokens.read_refresh_token(auth, refresh_token)
    user = find_enabled(uow.session, claims.user_id)
    if user is None:
        raise Unauthenticated("account not available")
    session = repository.live_session(uow.session, claims.session_id, utc_now())
    if session is None or session.user_id != user.id:
        raise Unauthenticated("session ended")
    return access_only(auth, user)


def logout(uow: UnitOfWork, auth: AuthSettings, *, refresh_token: str) -> None:
    """End the session of a refresh token. Idempotent.

    Raises:
        Unauthenticated: the token is wrong or of another kind.
    """
    claims = tokens.read_refresh_token(auth, refresh_token)
    if repository.delete_session(uow.session, claims.session_id, claims.user_id):
        security.record(
            uow.session,
            SecurityEventKind.LOGGED_OUT,
            actor_id=claims.user_id,
            subject_id=claims.user_id,
        )


def find_enabled(session: Session, user_id: UUID) -> Principal | None:
    """Return a principal that may act now; None when it is gone, disabled or internal."""
    user = repository.user(session, user_id)
    if user is None or user.disabled_at is not None or user.id == SYSTEM_USER_ID:
        return None
    return shown(user)


def exists(session: Session, user_id: UUID) -> bool:
    """Tell whether there is a principal with this id, of any kind and state."""
    return repository.user(session, user_id) is not None


def ensure_system_user(uow: UnitOfWork) -> None:
    """Create the internal principal when it is missing."""
    repository.add_system_user(uow.session, SYSTEM_USER_ID)


def ensure_agent(
    uow: UnitOfWork, *, user_id: UUID, email: str, display_name: str, owner_id: UUID | None
) -> None:
    """Create the principal of an agent when it is missing; an existing one is left alone."""
    repository.add_agent(
        uow.session, user_id, email=email, display_name=display_name, owner_id=owner_id
    )


def me(session: Session, actor: Actor) -> Principal:
    """Return the caller as the API shows it.

    Raises:
        Unauthenticated: the account has gone since the request was admitted.
    """
    user = find_enabled(session, actor.user_id) if actor.user_id is not None else None
    if user is None:
        raise Unauthenticated(INVALID_CREDENTIAL)
    return user


def mode(session: Session, auth: AuthSettings) -> Mode:
    """Tell how one may sign in here."""
    setup_required = not repository.any_human(session)
    return Mode(
        auth_required=True,
        setup_required=setup_required,
        password_login_enabled=not auth.disable_password_login or setup_required,
        providers=buttons(session),
    )


def buttons(session: Session) -> list[ProviderButton]:
    """Return the providers one may sign in through, by id."""
    return [
        ProviderButton(provider.id, provider.display_name)
        for provider in repository.enabled_providers(session)
    ]


def list_humans(session: Session) -> list[Principal]:
    """Return every human by address."""
    return [shown(user) for user in repository.humans(session)]


def hand_over_owned(session: Session, owner_id: UUID, heir_id: UUID | None) -> None:
    """Make another human the owner of record of someone's principals."""
    repository.pass_owned(session, owner_id, heir_id)


def prune(uow: UnitOfWork) -> None:
    """Delete sessions, sign-ins under way, nonces and links that have run out. Idempotent."""
    now = utc_now()
    repository.prune(
        uow.session,
        sessions_before=now,
        states=now - STATE_TTL,
        nonces=now - NONCE_TTL,
        links=now - LINK_KEPT,
    )


def _check_registration_open(session: Session, auth: AuthSettings) -> None:
    if auth.disable_password_login and repository.any_human(session):
        raise Forbidden("password registration is turned off")


def _may_sign_in(user: User) -> bool:
    return user.kind == Kind.HUMAN and not user.is_system and user.disabled_at is None


def _begin_password_session(
    uow: UnitOfWork, auth: AuthSettings, user_id: UUID, client_address: str | None
) -> Tokens:
    current = find_enabled(uow.session, user_id)
    if current is None:
        raise Unauthenticated(WRONG_CREDENTIALS)
    security.record(
        uow.session,
        SecurityEventKind.LOGIN_SUCCEEDED,
        actor_id=user_id,
        subject_id=user_id,
        client_address=client_address,
    )
    return start_session(uow, auth, current)


def _log_failed_login(
    open_uow: UnitOfWorkFactory, user: User | None, client_address: str | None
) -> None:
    log.info("login_failed", user_id=str(user.id) if user else None)
    with open_uow() as uow:
        security.record(
            uow.session,
            SecurityEventKind.LOGIN_FAILED,
            subject_id=user.id if user else None,
            client_address=client_address,
            email=user.email if user else None,
        )


def _taken(email: str) -> Invalid:
    return Invalid(f"email '{email}' is already registered")


def shown(user: User) -> Principal:
    """Return a principal as the API shows it."""
    return Principal(
        id=user.id,
        email=user.email,
        display_name=user.display_name,
        created_at=user.created_at,
        kind=Kind(user.kind),
    )
