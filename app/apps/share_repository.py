"""Rows of public shares."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.apps.models import PublicShare

ACTIVE = PublicShare.revoked_at.is_(None)


def add(session: Session, **values: Any) -> PublicShare | None:  # Any: column values
    """Insert a share; None when its creator has an active one with the same context."""
    row = insert(PublicShare).values(**values)
    made = row.on_conflict_do_nothing(
        index_elements=["app_id", "created_by", "context_hash"], index_where=ACTIVE
    ).returning(PublicShare)
    return session.scalars(made).one_or_none()


def same(session: Session, app_id: str, user_id: UUID, context_hash: bytes) -> PublicShare | None:
    """Return a creator's active share with a context."""
    return session.scalar(
        select(PublicShare).where(
            PublicShare.app_id == app_id,
            PublicShare.created_by == user_id,
            PublicShare.context_hash == context_hash,
            ACTIVE,
        )
    )


def of_creator(session: Session, app_id: str, user_id: UUID) -> list[PublicShare]:
    """Return a creator's active shares, newest first."""
    return list(
        session.scalars(
            select(PublicShare)
            .where(PublicShare.app_id == app_id, PublicShare.created_by == user_id, ACTIVE)
            .order_by(PublicShare.created_at.desc(), PublicShare.id)
        )
    )


def by_token(session: Session, token_hash: bytes) -> PublicShare | None:
    """Return the active share of a token."""
    return session.scalar(select(PublicShare).where(PublicShare.token_hash == token_hash, ACTIVE))


def active(session: Session, share_id: UUID) -> PublicShare | None:
    """Return a share unless it is revoked."""
    return session.scalar(select(PublicShare).where(PublicShare.id == share_id, ACTIVE))


def count_use(session: Session, share_id: UUID) -> None:
    """Add a use."""
    session.execute(
        update(PublicShare)
        .where(PublicShare.id == share_id)
        .values(access_count=PublicShare.access_count + 1, last_accessed_at=func.now())
    )


def revoke(session: Session, app_id: str, user_id: UUID, share_id: UUID) -> bool:
    """Revoke a creator's share; tell whether there was an active one."""
    gone = (
        update(PublicShare)
        .where(
            PublicShare.id == share_id,
            PublicShare.app_id == app_id,
            PublicShare.created_by == user_id,
            ACTIVE,
        )
        .values(revoked_at=func.now())
        .returning(PublicShare.id)
    )
    return session.scalar(gone) is not None
