"""Every statement on magic links."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.auth.models import MagicLinkToken


def add(session: Session, **values: Any) -> None:  # Any: the columns of a link
    """Insert a link."""
    session.execute(insert(MagicLinkToken).values(**values))


def take(session: Session, token_hash: bytes) -> MagicLinkToken | None:
    """Mark a live link as used and return it; of several callers one gets it."""
    used = (
        update(MagicLinkToken)
        .where(
            MagicLinkToken.token_hash == token_hash,
            MagicLinkToken.consumed_at.is_(None),
            MagicLinkToken.expires_at > func.now(),
        )
        .values(consumed_at=func.now())
    )
    return session.scalar(used.returning(MagicLinkToken))
