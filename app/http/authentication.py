"""From the Bearer header of a request to an actor.

Source: REST contract part 10, section 4 (Bearer check); part 30, section 4.2 (caller tokens).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import jwt
from flask import Request, current_app
from flask_jwt_extended import decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.errors import INVALID_CREDENTIAL, Forbidden, Unauthenticated
from app.core.permissions import Permissions

ActorLoader = Callable[[Session, UUID], Actor | None]
ActorRecaller = Callable[[UUID], Actor | None]

Claims = tuple[UUID, str, str | None]  # subject, e-mail, the app it is limited to

KEPT_TOKENS = 4096

_verified: dict[tuple[str, str], tuple[Claims, float]] = {}


def authenticate(request: Request, session: Session, load_actor: ActorLoader) -> Actor:
    """Return who sends a request, with the permissions read from the database now.

    Raises:
        Unauthenticated: no token, a wrong one, or a principal that is gone or disabled.
        Forbidden: a caller token used outside the app it is limited to.
    """
    user_id, email, scope = _read_token(request)
    actor = load_actor(session, user_id)
    if actor is None:
        raise Unauthenticated(INVALID_CREDENTIAL)
    actor = replace(actor, email=email)
    return actor if scope is None else _limited(actor, scope, request.path)


def recalled(request: Request, recall: ActorRecaller) -> Actor | None:
    """Return who sends a request with the rights remembered, or None if none are.

    Raises:
        Unauthenticated: no token, or a wrong one.
        Forbidden: a caller token used outside the app it is limited to.
    """
    user_id, email, scope = _read_token(request)
    actor = recall(user_id)
    if actor is None:
        return None
    actor = replace(actor, email=email)
    return actor if scope is None else _limited(actor, scope, request.path)


def claimed(request: Request) -> Actor:
    """Return who sends a request by its token alone, with no permissions.

    For work whose node reads the principal's rights itself when it starts.

    Raises:
        Unauthenticated: no token, or a wrong one.
        Forbidden: a caller token used outside the app it is limited to.
    """
    user_id, email, scope = _read_token(request)
    actor = Actor(user_id=user_id, email=email)
    return actor if scope is None else _limited(actor, scope, request.path)


def _read_token(request: Request) -> Claims:
    sent = request.headers.get("Authorization")
    if sent is None:
        raise Unauthenticated("authentication required")
    # A signature that was good is good until the token expires; checking it again costs as much
    # as the rest of a short request.
    key = (current_app.config["JWT_SECRET_KEY"], sent)
    known = _verified.get(key)
    if known is not None and time.time() < known[1]:
        return known[0]
    header = request.authorization
    if header is None or header.type != "bearer" or not header.token:
        raise Unauthenticated(INVALID_CREDENTIAL)
    claims, expires_at = _verify(header.token)
    if len(_verified) >= KEPT_TOKENS:
        _verified.clear()
    _verified[key] = (claims, expires_at)
    return claims


def _verify(token: str) -> tuple[Claims, float]:
    """Return what a token says and when it expires."""
    try:
        claims = decode_token(token)
        email = claims["email"]
        user_id = UUID(claims["sub"])
    except (jwt.PyJWTError, JWTExtendedException, KeyError, ValueError, TypeError) as exc:
        raise Unauthenticated(INVALID_CREDENTIAL) from exc
    scope = claims.get("app")
    if not (isinstance(email, str) and email and isinstance(scope, str | None)):
        raise Unauthenticated(INVALID_CREDENTIAL)
    if "exp" not in claims:
        raise Unauthenticated(INVALID_CREDENTIAL)
    return (user_id, email, scope), float(claims["exp"])


def _limited(actor: Actor, app_id: str, path: str) -> Actor:
    action = path.startswith("/api/v1/integrations/") and "/actions/" in path
    allowed = (
        path.startswith((f"/api/v1/apps/{app_id}/", "/api/v1/storage/"))
        or action
        or path == "/api/v1/auth/me"
    )
    if not allowed:
        raise Forbidden(f"token is limited to app '{app_id}'")
    # Actions of integrations have keys of their own; a binding limits them to the app.
    within = Permissions.of({f"app:{app_id}:*"} | ({"integration:*"} if action else set()))
    return replace(actor, permissions=actor.permissions.intersect(within), app_scope=app_id)
