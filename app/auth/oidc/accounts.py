"""From the claims of an ID token to a human of ours.

Source: REST contract part 10, section 6.6.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import identities
from app.auth import repository as users
from app.auth.events import UserCreated
from app.auth.models import OIDCProvider, User
from app.auth.oidc import repository
from app.auth.oidc.rules import Claims
from app.core.actor import Kind
from app.core.errors import Forbidden, Invalid, Unauthenticated
from app.core.uow import UnitOfWork

BASE = "base"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a provider says about somebody.

    Attributes:
        verified: False only when the provider says that the address is not.
    """

    provider_id: str
    subject: str
    email: str
    display_name: str | None
    verified: bool


def identity_of(provider_id: str, claims: Claims) -> Identity:
    """Return the identity in a set of validated claims.

    Raises:
        Unauthenticated: there is no usable address.
    """
    try:
        email = identities.normalize_email(claims.get("email"))
    except Invalid as exc:
        raise Unauthenticated("id_token has no email") from exc
    names = (claims.get("preferred_username"), claims.get("name"))
    name = next((n for n in names if isinstance(n, str) and n and "\0" not in n), None)
    verified = str(claims.get("email_verified", True)).lower() != "false"
    return Identity(
        provider_id,
        claims["sub"],
        email,
        name[: identities.MAX_DISPLAY_NAME] if name else None,
        verified,
    )


def resolve(uow: UnitOfWork, provider: OIDCProvider, claims: Claims) -> User:
    """Find, link or create the human an ID token is about.

    Raises:
        Unauthenticated: no address, or the account is disabled.
        Forbidden: unknown here and not to be created, or the address is not verified.
        Invalid: the address belongs to somebody else.

    Locks: the user's row.
    """
    who = identity_of(provider.id, claims)
    known = users.user_by_link(uow.session, who.provider_id, who.subject)
    if known is None:
        known = _link(uow, who)
    elif known.disabled_at is None:
        _refresh_profile(uow, known, who)
    if known is None:
        known = _create(uow, provider, who, claims)
    if known.disabled_at is not None:
        raise Unauthenticated("account not available")
    return known


def _refresh_profile(uow: UnitOfWork, user: User, who: Identity) -> None:
    values = {}
    if who.verified and who.email != user.email:
        values["email"] = who.email
    if who.display_name is not None and who.display_name != user.display_name:
        values["display_name"] = who.display_name
    if not values:
        return
    if "email" in values:
        identities.check_not_reserved(who.email)
    try:
        with uow.session.begin_nested():
            repository.update_profile(uow.session, user.id, values)
    except IntegrityError as exc:
        raise _taken(who.email) from exc
    uow.session.refresh(user)


def _link(uow: UnitOfWork, who: Identity) -> User | None:
    user = users.user_by_email(uow.session, who.email, lock=True)
    if user is None or user.kind != Kind.HUMAN or user.oidc_provider is not None:
        return None
    if user.disabled_at is not None:
        return user
    _require_verified(who)
    repository.link(uow.session, user.id, who.provider_id, who.subject)
    security.record(
        uow.session,
        SecurityEventKind.USER_LINKED,
        actor_id=user.id,
        subject_id=user.id,
        provider=who.provider_id,
    )
    return user


def _create(uow: UnitOfWork, provider: OIDCProvider, who: Identity, claims: Claims) -> User:
    if not provider.auto_register:
        raise Forbidden("user is not provisioned")
    _require_verified(who)
    identities.check_not_reserved(who.email)
    user = users.add_human(
        uow.session,
        email=who.email,
        display_name=who.display_name,
        link=(who.provider_id, who.subject),
    )
    if user is None:
        # Somebody has the address, or a parallel sign-in of the same person came first.
        twin = users.user_by_link(uow.session, who.provider_id, who.subject)
        if twin is None:
            raise _taken(who.email)
        return twin
    security.record(
        uow.session,
        SecurityEventKind.USER_PROVISIONED,
        actor_id=user.id,
        subject_id=user.id,
        provider=who.provider_id,
        email=who.email,
    )
    uow.emit(UserCreated(user.id, _roles_wanted(provider, claims)))
    return user


def _roles_wanted(provider: OIDCProvider, claims: Claims) -> tuple[str, ...]:
    claimed = claims.get(provider.role_claim) if provider.role_claim else None
    first = (claimed,) if isinstance(claimed, str) and "\0" not in claimed else ()
    return (*first, provider.default_role, BASE)


def _require_verified(who: Identity) -> None:
    if not who.verified:
        raise Forbidden("email address is not verified by the identity provider")


def _taken(email: str) -> Invalid:
    return Invalid(f"email '{email}' is already registered")
