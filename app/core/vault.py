"""Encrypted storage of secrets, below every slice so that each may keep its own.

Source: REST contract part 30, section 14.3; part 10, section 3 (client secrets).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import DateTime, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.core.crypto import Cipher
from app.core.db import Base


class VaultSecret(Base):
    """One encrypted value; scope and name are bound into the ciphertext."""

    __tablename__ = "secrets"

    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    key_name: Mapped[str] = mapped_column(Text, primary_key=True)
    nonce: Mapped[bytes]
    ciphertext: Mapped[bytes]
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def put(session: Session, cipher: Cipher, scope: str, name: str, value: str) -> None:
    """Store a value, replacing the one of the same scope and name."""
    nonce, ciphertext = cipher.encrypt(scope, name, value)
    row = insert(VaultSecret).values(scope=scope, key_name=name, nonce=nonce, ciphertext=ciphertext)
    session.execute(
        row.on_conflict_do_update(
            index_elements=[VaultSecret.scope, VaultSecret.key_name],
            set_={
                "nonce": row.excluded.nonce,
                "ciphertext": row.excluded.ciphertext,
                "updated_at": func.now(),
            },
        )
    )


def get(session: Session, cipher: Cipher, scope: str, name: str) -> str | None:
    """Return a stored value, or None when there is none.

    Raises:
        VaultError: it was encrypted with another key, moved or changed.
    """
    row = session.execute(
        select(VaultSecret.nonce, VaultSecret.ciphertext).where(
            VaultSecret.scope == scope, VaultSecret.key_name == name
        )
    ).one_or_none()
    return None if row is None else cipher.decrypt(scope, name, row.nonce, row.ciphertext)


def get_all(session: Session, cipher: Cipher, scope: str) -> dict[str, str]:
    """Return every value of a scope by its name.

    Raises:
        VaultError: as ``get``.
    """
    rows = session.execute(
        select(VaultSecret.key_name, VaultSecret.nonce, VaultSecret.ciphertext)
        .where(VaultSecret.scope == scope)
        .order_by(VaultSecret.key_name)
    )
    return {name: cipher.decrypt(scope, name, nonce, text) for name, nonce, text in rows}


def delete(session: Session, scope: str, name: str) -> bool:
    """Forget one value and tell whether there was one."""
    gone = sa.delete(VaultSecret).where(VaultSecret.scope == scope, VaultSecret.key_name == name)
    return session.scalar(gone.returning(VaultSecret.scope)) is not None


def delete_scope(session: Session, scope: str) -> None:
    """Forget every value of a scope."""
    session.execute(sa.delete(VaultSecret).where(VaultSecret.scope == scope))
