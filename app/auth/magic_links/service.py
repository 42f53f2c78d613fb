"""Magic links: one-time links that sign a person in and may confer roles.

No mail is sent: whoever makes a link delivers it. What its author may confer is checked when the
link is made and again when it is used.

Source: REST contract part 10, section 10.1; ADR 0009.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import identities
from app.auth import repository as users
from app.auth import service as accounts_service
from app.auth.delivery import NONCE, Delivery, begin_session
from app.auth.events import RolesConferred, RolesOffered
from app.auth.magic_links import repository
from app.auth.models import MagicLinkToken, User
from app.auth.oidc import rules
from app.auth.throttle import Throttle
from app.core.actor import Actor, Kind
from app.core.clock import utc_now
from app.core.crypto import digest
from app.core.errors import Forbidden, Invalid, Unauthenticated
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from config.settings import AuthSettings

CONSUME = "/api/v1/auth/magic-link/consume"
MAX_ROLES = 32
SHORTEST_S, LONGEST_S = 60, 86_400
REFUSED = "link is invalid, expired or already used"
METHOD = "magic_link"


@dataclass(frozen=True, slots=True)
class MagicLink:
    """A link, shown this one time."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What using a link led to."""

    delivery: Delivery
    redirect_uri: str | None


def generate(
    uow: UnitOfWork,
    actor: Actor,
    *,
    public_url: str,
    email: object,
    roles: Sequence[str],
    redirect_uri: str | None,
    expires_in_s: int,
    token_delivery: str,
) -> MagicLink:
    """Make a link.

    Args:
        uow: the open unit of work.
        actor: its author.
        public_url: our external base URL.
        email: whom it signs in.
        roles: what it confers, at most 32 names.
        redirect_uri: where the browser goes with the tokens; None: it is shown them.
        expires_in_s: seconds it lives; brought within 60 to 86400.
        token_delivery: ``nonce``, or anything else for the tokens in query and fragment.

    Raises:
        Invalid: a bad or reserved address, too many or unknown roles, a bad URL.
        Forbidden: a role the author may not confer.
    """
    address = identities.normalize_email(email)
    identities.check_not_reserved(address)
    if len(roles) > MAX_ROLES:
        raise Invalid(f"field 'roles' must have at most {MAX_ROLES} elements")
    if redirect_uri is not None:
        rules.check_link_target(redirect_uri)
    # In one order, so that two links used at once lock their roles alike.
    names = sorted(set(roles))
    uow.emit(RolesOffered(actor, tuple(names)))
    token = secrets.token_urlsafe(32)
    expires_at = utc_now() + timedelta(seconds=min(max(expires_in_s, SHORTEST_S), LONGEST_S))
    repository.add(
        uow.session,
        token_hash=digest(token),
        email=address,
        roles=names,
        redirect_uri=redirect_uri,
        token_delivery=token_delivery if token_delivery == NONCE else "",
        created_by=actor.user_id,
        expires_at=expires_at,
    )
    security.record(
        uow.session,
        SecurityEventKind.MAGIC_LINK_CREATED,
        actor_id=actor.user_id,
        email=address,
        roles=names,
    )
    return MagicLink(f"{public_url.rstrip('/')}{CONSUME}?token={token}", expires_at)


def consume(
    open_uow: UnitOfWorkFactory,
    auth: AuthSettings,
    throttle: Throttle,
    *,
    token: str,
    in_browser: bool,
    client_address: str | None,
) -> SignedIn:
    """Sign a person in by a link, which is used up, in one transaction.

    Args:
        open_uow: opens the units of work.
        auth: lifetimes and the key of our tokens.
        throttle: the brake on guessing.
        token: what the link carries.
        in_browser: whether to go where the link says; else the tokens are in the answer.
        client_address: where the request came from.

    Raises:
        Unauthenticated: no such link that is still good, or its address cannot sign in.
        TooMany: too many failures lately.
    """
    with throttle.attempt(client_address):
        try:
            with open_uow() as uow:
                return _sign_in(uow, auth, token, in_browser, client_address)
        except Unauthenticated:
            with open_uow() as uow:
                security.record(
                    uow.session,
                    SecurityEventKind.LOGIN_FAILED,
                    client_address=client_address,
                    method=METHOD,
                )
            raise


def _sign_in(
    uow: UnitOfWork, auth: AuthSettings, token: str, in_browser: bool, client_address: str | None
) -> SignedIn:
    link = repository.take(uow.session, digest(token))
    if link is None:
        raise Unauthenticated(REFUSED)
    user = _find_or_create(uow, link)
    try:
        uow.emit(RolesConferred(user.id, tuple(link.roles), link.created_by))
    except Forbidden as exc:
        raise Unauthenticated(REFUSED) from exc
    security.record(
        uow.session,
        SecurityEventKind.LOGIN_SUCCEEDED,
        actor_id=user.id,
        subject_id=user.id,
        client_address=client_address,
        method=METHOD,
    )
    delivery = begin_session(
        uow,
        auth,
        accounts_service.shown(user),
        redirect_uri=(link.redirect_uri or "") if in_browser else "",
        token_delivery=link.token_delivery,
    )
    return SignedIn(delivery, link.redirect_uri)


def _find_or_create(uow: UnitOfWork, link: MagicLinkToken) -> User:
    user = users.user_by_email(uow.session, link.email, lock=True)
    if user is None:
        user = users.add_human(uow.session, email=link.email, display_name=None)
        if user is not None:
            security.record(
                uow.session,
                SecurityEventKind.USER_PROVISIONED,
                actor_id=link.created_by,
                subject_id=user.id,
                email=link.email,
                method=METHOD,
            )
        else:  # somebody else has created it meanwhile
            user = users.user_by_email(uow.session, link.email, lock=True)
    if user is None or user.kind != Kind.HUMAN or user.disabled_at is not None:
        raise Unauthenticated("account not available")
    return user
