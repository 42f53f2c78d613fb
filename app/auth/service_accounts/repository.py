"""Every statement on service accounts and their keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.auth.models import ServiceCredential, User
from app.core.actor import Kind
from app.core.ids import SYSTEM_USER_ID


def accounts(session: Session) -> list[User]:
    """Return all service accounts by address, the internal user left out."""
    query = select(User).where(User.kind == Kind.SERVICE, User.id != SYSTEM_USER_ID)
    return list(session.scalars(query.order_by(User.email)))


def account(session: Session, account_id: UUID, *, lock: bool = False) -> User | None:
    """Return a service account, optionally locked; never the internal user."""
    query = select(User).where(
        User.id == account_id, User.kind == Kind.SERVICE, User.id != SYSTEM_USER_ID
    )
    return session.scalar(query.with_for_update() if lock else query)


def add_account(
    session: Session, *, email: str, display_name: str | None, owner_id: UUID | None
) -> UUID | None:
    """Insert a service account; None when its address is taken."""
    row = insert(User).values(
        email=email,
        display_name=display_name,
        kind=Kind.SERVICE,
        is_system=True,
        owner_of_record=owner_id,
    )
    return session.scalar(row.on_conflict_do_nothing().returning(User.id))


def add_credential(
    session: Session,
    account_id: UUID,
    *,
    name: str,
    key_hash: bytes,
    prefix: str,
    expires_at: datetime,
) -> UUID:
    """Insert a key and return its id."""
    row = insert(ServiceCredential).values(
        user_id=account_id, name=name, key_hash=key_hash, prefix=prefix, expires_at=expires_at
    )
    return session.execute(row.returning(ServiceCredential.id)).scalar_one()


def credentials(session: Session, account_id: UUID) -> list[ServiceCredential]:
    """Return every key of an account, newest first."""
    query = select(ServiceCredential).where(ServiceCredential.user_id == account_id)
    newest_first = query.order_by(ServiceCredential.created_at.desc(), ServiceCredential.id)
    return list(session.scalars(newest_first))


def live_credentials(session: Session, account_id: UUID) -> list[ServiceCredential]:
    """Return the keys of an account that are neither revoked nor expired."""
    query = select(ServiceCredential).where(
        ServiceCredential.user_id == account_id,
        ServiceCredential.revoked_at.is_(None),
        ServiceCredential.expires_at > func.now(),
    )
    return list(session.scalars(query))


def revoke_credential(session: Session, account_id: UUID, credential_id: UUID) -> bool:
    """Revoke a key of an account and tell whether it was there and not revoked."""
    gone = (
        update(ServiceCredential)
        .where(
            ServiceCredential.id == credential_id,
            ServiceCredential.user_id == account_id,
            ServiceCredential.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
    )
    return session.scalar(gone.returning(ServiceCredential.id)) is not None


def touch_credential(session: Session, credential_id: UUID) -> None:
    """Note that a key was used now."""
    session.execute(
        update(ServiceCredential)
        .where(ServiceCredential.id == credential_id)
        .values(last_used_at=func.now())
    )
