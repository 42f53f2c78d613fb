"""Every statement on providers, sign-ins under way and one-time nonces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.auth.models import AuthNonce, OIDCProvider, OIDCState, User, UserSession


def provider(session: Session, provider_id: str) -> OIDCProvider | None:
    """Return a provider, enabled or not."""
    return session.get(OIDCProvider, provider_id)


def put_provider(session: Session, values: Mapping[str, Any]) -> None:
    """Insert a provider or replace all of it."""
    row = insert(OIDCProvider).values(**values)
    replaced = {name: row.excluded[name] for name in values if name != "id"}
    session.execute(row.on_conflict_do_update(index_elements=[OIDCProvider.id], set_=replaced))


def delete_provider(session: Session, provider_id: str) -> None:
    """Delete a provider with its sign-ins under way."""
    session.execute(delete(OIDCState).where(OIDCState.provider_id == provider_id))
    session.execute(delete(OIDCProvider).where(OIDCProvider.id == provider_id))


def count_linked(session: Session, provider_id: str) -> int:
    """Count the users who sign in through a provider."""
    query = select(func.count()).select_from(User).where(User.oidc_provider == provider_id)
    return session.execute(query).scalar_one()


def add_state(session: Session, values: Mapping[str, str]) -> None:
    """Insert a sign-in under way."""
    session.execute(insert(OIDCState).values(**values))


def take_state(session: Session, state: str) -> OIDCState | None:
    """Delete a sign-in under way and return it; of several callers one gets it."""
    return session.scalar(delete(OIDCState).where(OIDCState.state == state).returning(OIDCState))


def link(session: Session, user_id: UUID, provider_id: str, subject: str) -> None:
    """Tie a human to an identity of a provider."""
    session.execute(
        update(User).where(User.id == user_id).values(oidc_provider=provider_id, oidc_sub=subject)
    )


def update_profile(session: Session, user_id: UUID, values: Mapping[str, str]) -> None:
    """Take over what the provider says about a human."""
    session.execute(update(User).where(User.id == user_id).values(**values))


def add_nonce(session: Session, nonce_hash: bytes, user_id: UUID, session_id: UUID) -> None:
    """Insert a one-time nonce."""
    session.execute(
        insert(AuthNonce).values(nonce_hash=nonce_hash, user_id=user_id, session_id=session_id)
    )


def take_nonce(
    session: Session, nonce_hash: bytes, *, not_before: datetime, now: datetime
) -> tuple[UUID, UUID] | None:
    """Delete a fresh nonce of a live session; return user and session."""
    gone = (
        delete(AuthNonce)
        .where(
            AuthNonce.nonce_hash == nonce_hash,
            AuthNonce.created_at > not_before,
            AuthNonce.session_id == UserSession.id,
            UserSession.expires_at > now,
        )
        .returning(AuthNonce.user_id, AuthNonce.session_id)
    )
    row = session.execute(gone).one_or_none()
    return None if row is None else (row.user_id, row.session_id)
