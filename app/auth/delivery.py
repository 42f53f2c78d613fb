"""How the tokens of a new session reach a browser.

Source: REST contract part 10, section 6.4, step 4.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

from app.auth import service
from app.auth.oidc import repository, rules
from app.auth.service import Principal, Tokens
from app.core.crypto import digest
from app.core.uow import UnitOfWork
from config.settings import AuthSettings

NONCE = "nonce"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the browser gets on: to another address, or with the tokens in the body."""

    location: str | None = None
    tokens: Tokens | None = None


def begin_session(
    uow: UnitOfWork,
    auth: AuthSettings,
    user: Principal,
    *,
    redirect_uri: str,
    token_delivery: str,
) -> Delivery:
    """Begin a session and hand its tokens over.

    Args:
        uow: the open unit of work.
        auth: lifetimes and the key of our tokens.
        user: an enabled human.
        redirect_uri: where the browser shall go; empty: nowhere.
        token_delivery: ``nonce``, or anything else for the tokens in query and fragment.
    """
    session_id = service.open_session(uow, auth, user)
    if redirect_uri and token_delivery == NONCE:
        nonce = secrets.token_urlsafe(32)
        repository.add_nonce(uow.session, digest(nonce), user.id, session_id)
        return Delivery(rules.with_query(redirect_uri, {"auth_nonce": nonce}))
    tokens = service.session_tokens(auth, user, session_id)
    if not redirect_uri:
        return Delivery(tokens=tokens)
    pairs = {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token or "",
        "expires_in": str(tokens.expires_in),
    }
    return Delivery(rules.with_query(redirect_uri, pairs, fragment=urlencode(pairs)), tokens)
