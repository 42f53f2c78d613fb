"""Public RPCs, and shares: tokens that open the scoped ones.

A share's token is a bearer secret; only its hash is stored. What a call with it may see is what
its creator may read of the app's entities when the call starts.

Source: REST contract part 20, sections 3.12 and 8; ADR 0012.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.apps import repository, share_repository
from app.apps.models import PublicShare
from app.core.actor import ANONYMOUS, Actor
from app.core.errors import (
    INVALID_CREDENTIAL,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthenticated,
)
from app.core.ids import is_identifier
from app.core.permissions import Permissions
from app.core.uow import UnitOfWork
from app.rbac import service as rbac_service

JSONValue = Any  # a JSON value

TOKEN_BYTES = 32
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
PREFIX_LENGTH = 8
MAX_CONTEXT_BYTES = 16 * 1024
MAX_SHARES = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """A share as its creator sees it.

    Attributes:
        token: shown once, when the share is made; empty afterwards.
    """

    id: UUID
    app_id: str
    context: JSONValue
    token_prefix: str
    created_at: datetime
    last_accessed_at: datetime | None
    access_count: int
    token: str = ""


def is_token(text: str) -> bool:
    """Tell whether a bearer token is spelled like that of a share; no JWT is."""
    return TOKEN.fullmatch(text) is not None


def create(uow: UnitOfWork, actor: Actor, *, app_id: str, context: JSONValue) -> Share:
    """Make a share, or return the creator's active one with the same context.

    Returns:
        The share; its token is empty when it existed.

    Raises:
        Invalid: the context is too large, or the creator has too many shares.
    """
    canonical = json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if len(canonical.encode()) > MAX_CONTEXT_BYTES:
        raise Invalid(f"context must be at most {MAX_CONTEXT_BYTES} bytes of JSON")
    digest = hashlib.sha256(canonical.encode()).digest()
    creator = _creator(actor)
    existing = share_repository.same(uow.session, app_id, creator, digest)
    if existing is not None:
        return _view(existing)
    if len(share_repository.of_creator(uow.session, app_id, creator)) >= MAX_SHARES:
        raise Invalid(f"at most {MAX_SHARES} active shares per user and app")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    made = share_repository.add(
        uow.session,
        app_id=app_id,
        created_by=creator,
        context=context,
        context_hash=digest,
        token_hash=_hash(token),
        token_prefix=token[:PREFIX_LENGTH],
    )
    if made is not None:
        return _view(made, token)
    # Another request made it in between, and has committed.
    existing = share_repository.same(uow.session, app_id, creator, digest)
    if existing is None:
        raise Conflict("the share was revoked meanwhile, try again")
    return _view(existing)


def own(session: Session, actor: Actor, app_id: str) -> list[Share]:
    """Return the actor's active shares of an app, newest first."""
    return [_view(row) for row in share_repository.of_creator(session, app_id, _creator(actor))]


def revoke(uow: UnitOfWork, actor: Actor, *, app_id: str, share_id: UUID) -> None:
    """Revoke one of the actor's shares; its token stops working at once.

    Raises:
        NotFound: no active share of the actor has this id.
    """
    if not share_repository.revoke(uow.session, app_id, _creator(actor), share_id):
        raise NotFound(f"no share '{share_id}'")


def check(session: Session, token: str) -> None:
    """Raise ``Unauthenticated`` unless a share token is good."""
    _of_token(session, token)


def look(uow: UnitOfWork, token: str) -> Share:
    """Return the share of a token and count the use.

    Raises:
        Unauthenticated: unknown or revoked.
    """
    found = _of_token(uow.session, token)
    share_repository.count_use(uow.session, found.id)
    return _view(found)


def open_rpc(uow: UnitOfWork, token: str, *, app_id: str, method: str, params: JSONValue) -> UUID:
    """Let the bearer of a share token call a public RPC; count the use.

    Returns:
        The id of the share.

    Raises:
        Unauthenticated: unknown or revoked.
        Forbidden: a share of another app, a method that is not public, or parameters outside the
            share's context.
    """
    found = _of_token(uow.session, token)
    scope = rpc_scope(uow.session, app_id, method)
    if found.app_id != app_id or scope is None or not covers(found.context, scope, params):
        raise Forbidden("the share token does not cover this call")
    share_repository.count_use(uow.session, found.id)
    return found.id


def rpc_scope(session: Session, app_id: str, method: str) -> list[str] | None:
    """Return the scope of a public RPC; empty = anyone may call it, None = it is not public."""
    manifest = repository.manifest(session, app_id) if is_identifier(app_id) else None
    for rpc in ((manifest or {}).get("public") or {}).get("rpcs", ()):
        if rpc["name"] == method:
            return list(rpc["scope"])
    return None


def covers(context: JSONValue, scope: list[str], params: JSONValue) -> bool:
    """Tell whether parameters agree with a context in every key of a scope."""
    if not scope:
        return True
    if not isinstance(context, Mapping) or not isinstance(params, Mapping):
        return False
    return all(
        key in context and key in params and same_json(context[key], params[key]) for key in scope
    )


def same_json(one: JSONValue, other: JSONValue) -> bool:
    """Tell whether two JSON values are equal; ``true`` is not ``1``, ``1`` is ``1.0``."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_json(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def actor_of(session: Session, share_id: UUID) -> Actor:
    """Return whom a call with a share acts for: nobody, with what its creator may read now.

    A share that is gone, or whose creator is, sees nothing.
    """
    share = share_repository.active(session, share_id)
    creator = None if share is None else rbac_service.load_actor(session, share.created_by)
    if share is None or creator is None:
        return ANONYMOUS
    manifest = repository.manifest(session, share.app_id) or {"dataContract": []}
    keys = [
        f"app:{share.app_id}:{entity['entityName']}.read" for entity in manifest["dataContract"]
    ]
    readable = Permissions.of({key for key in keys if creator.can(key)})
    return Actor(user_id=None, permissions=readable, source=ANONYMOUS.source)


def _of_token(session: Session, token: str) -> PublicShare:
    digest = _hash(token)
    found = share_repository.by_token(session, digest)
    if found is None or not hmac.compare_digest(found.token_hash, digest):
        raise Unauthenticated(INVALID_CREDENTIAL)
    return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _creator(actor: Actor) -> UUID:
    if actor.user_id is None:
        raise Unauthenticated("authentication required")
    return actor.user_id


def _view(row: PublicShare, token: str = "") -> Share:
    return Share(
        id=row.id,
        app_id=row.app_id,
        context=row.context,
        token_prefix=row.token_prefix,
        created_at=row.created_at,
        last_accessed_at=row.last_accessed_at,
        access_count=row.access_count,
        token=token,
    )
