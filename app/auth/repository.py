"""Every statement on users and sessions."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.auth.models import (
    AuthNonce,
    MagicLinkToken,
    OIDCProvider,
    OIDCState,
    User,
    UserSession,
)
from app.core.actor import Kind


def user(session: Session, user_id: UUID) -> User | None:
    """Return a principal of any kind."""
    return session.get(User, user_id)


def human(session: Session, user_id: UUID, *, lock: bool = False) -> User | None:
    """Return a human, optionally locked against other changes."""
    query = select(User).where(User.id == user_id, User.kind == Kind.HUMAN)
    return session.scalar(query.with_for_update() if lock else query)


def user_by_email(session: Session, email: str, *, lock: bool = False) -> User | None:
    """Return the principal with a (normalised) address."""
    query = select(User).where(User.email == email)
    return session.scalar(query.with_for_update() if lock else query)


def user_by_link(session: Session, provider_id: str, subject: str) -> User | None:
    """Return the human an identity of a provider belongs to, locked."""
    query = select(User).where(User.oidc_provider == provider_id, User.oidc_sub == subject)
    return session.scalar(query.with_for_update())


def humans(session: Session) -> list[User]:
    """Return all humans by address."""
    return list(session.scalars(select(User).where(User.kind == Kind.HUMAN).order_by(User.email)))


def any_human(session: Session) -> bool:
    """Tell whether somebody has registered."""
    return bool(session.scalar(select(exists().where(User.kind == Kind.HUMAN))))


def add_human(
    session: Session,
    *,
    email: str,
    display_name: str | None,
    password_hash: str | None = None,
    link: tuple[str, str] | None = None,
) -> User | None:
    """Insert a human; None when the address (or the identity) is taken."""
    provider, subject = link or (None, None)
    row = insert(User).values(
        email=email,
        display_name=display_name,
        password_hash=password_hash,
        oidc_provider=provider,
        oidc_sub=subject,
    )
    return session.scalar(row.on_conflict_do_nothing().returning(User))


def add_system_user(session: Session, user_id: UUID) -> None:
    """Insert the internal principal unless it exists."""
    row = insert(User).values(
        id=user_id, email="system@localhost", kind=Kind.SERVICE, is_system=True
    )
    session.execute(row.on_conflict_do_nothing())


def add_agent(
    session: Session, user_id: UUID, *, email: str, display_name: str, owner_id: UUID | None
) -> None:
    """Insert the principal of an agent unless it exists."""
    row = insert(User).values(
        id=user_id,
        email=email,
        display_name=display_name,
        kind=Kind.AGENT,
        is_system=True,
        owner_of_record=owner_id,
    )
    session.execute(row.on_conflict_do_nothing())


def set_password_hash(session: Session, user_id: UUID, old: str, new: str) -> None:
    """Replace a hash unless somebody else has meanwhile."""
    session.execute(
        update(User).where(User.id == user_id, User.password_hash == old).values(password_hash=new)
    )


def delete_user(session: Session, user_id: UUID) -> None:
    """Delete a principal; rows that belong to it go with it."""
    session.execute(delete(User).where(User.id == user_id))


def delete_magic_links_to(session: Session, email: str) -> None:
    """Delete the links that would sign somebody in under an address."""
    session.execute(delete(MagicLinkToken).where(MagicLinkToken.email == email))


def pass_owned(session: Session, owner_id: UUID, heir_id: UUID | None) -> None:
    """Hand the principals of one owner to another."""
    session.execute(
        update(User).where(User.owner_of_record == owner_id).values(owner_of_record=heir_id)
    )


def add_session(session: Session, user_id: UUID, expires_at: datetime) -> UUID:
    """Insert a session and return its id."""
    row = insert(UserSession).values(user_id=user_id, expires_at=expires_at)
    return session.execute(row.returning(UserSession.id)).scalar_one()


def live_session(session: Session, session_id: UUID, now: datetime) -> UserSession | None:
    """Return a session that has not expired."""
    return session.scalar(
        select(UserSession).where(UserSession.id == session_id, UserSession.expires_at > now)
    )


def delete_session(session: Session, session_id: UUID, user_id: UUID) -> bool:
    """End a session and tell whether there was one."""
    gone = delete(UserSession).where(UserSession.id == session_id, UserSession.user_id == user_id)
    return session.scalar(gone.returning(UserSession.id)) is not None


def prune(
    session: Session,
    *,
    sessions_before: datetime,
    states: datetime,
    nonces: datetime,
    links: datetime,
) -> None:
    """Delete what has run out."""
    session.execute(delete(UserSession).where(UserSession.expires_at <= sessions_before))
    session.execute(delete(OIDCState).where(OIDCState.created_at < states))
    session.execute(delete(AuthNonce).where(AuthNonce.created_at < nonces))
    session.execute(delete(MagicLinkToken).where(MagicLinkToken.expires_at < links))


def enabled_providers(session: Session) -> list[OIDCProvider]:
    """Return the providers users may sign in through, by id."""
    query = select(OIDCProvider).where(OIDCProvider.enabled).order_by(OIDCProvider.id)
    return list(session.scalars(query))
