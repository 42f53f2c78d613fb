"""Access and refresh tokens: HS256 JWTs that carry no authority of their own.

Source: REST contract part 10, section 4; part 30, section 4.2 (caller tokens).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import jwt

from app.core.errors import Unauthenticated
from config.settings import AuthSettings

ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """What a refresh token says."""

    user_id: UUID
    session_id: UUID


def mint_access_token(
    auth: AuthSettings, user_id: UUID, email: str, app_id: str | None = None
) -> str:
    """Return an access token.

    Args:
        auth: key and lifetime.
        user_id: whose token it is.
        email: the principal's address, never empty.
        app_id: the one app the token is good for; None: everywhere.
    """
    claims: dict[str, Any] = {"email": email}
    if app_id is not None:
        claims["app"] = app_id
    return _mint(auth, user_id, auth.access_ttl, claims)


def mint_refresh_token(auth: AuthSettings, user_id: UUID, session_id: UUID) -> str:
    """Return the refresh token of a session."""
    return _mint(auth, user_id, auth.session_ttl, {"session_id": str(session_id)})


def read_refresh_token(auth: AuthSettings, token: str) -> RefreshClaims:
    """Return the claims of a refresh token.

    Raises:
        Unauthenticated: it is malformed, forged or expired, or of another kind.
    """
    try:
        claims = jwt.decode(
            token,
            auth.jwt_secret,
            algorithms=[ALGORITHM],
            options={"require": ["exp"], "verify_aud": False, "verify_iss": False},
        )
    except jwt.PyJWTError as exc:
        raise Unauthenticated("invalid refresh token") from exc
    if "session_id" not in claims or "email" in claims:
        raise Unauthenticated("not a refresh token")
    try:
        return RefreshClaims(UUID(claims["sub"]), UUID(claims["session_id"]))
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise Unauthenticated("invalid refresh token") from exc


def _mint(auth: AuthSettings, user_id: UUID, ttl: timedelta, claims: dict[str, Any]) -> str:
    now = int(time.time())
    return jwt.encode(
        {
            "sub": str(user_id),
            **claims,
            "iat": now,
            "exp": now + int(ttl.total_seconds()),
        },
        auth.jwt_secret,
        algorithm=ALGORITHM,
    )
