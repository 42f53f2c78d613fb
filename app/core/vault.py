"""Encrypted storage of secrets, below every slice so that each may keep its own.

Source: REST contract part 30, section 14.3; part 10, section 3 (client secrets).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import DateTime, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.core.crypto import Cipher, VaultError
from app.core.db import Base


class VaultSecret(Base):
    """One encrypted value; scope and name are bound into the ciphertext.

    Attributes:
        key_id: the key it is encrypted with; None in rows older than the column.
    """

    __tablename__ = "secrets"

    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    key_name: Mapped[str] = mapped_column(Text, primary_key=True)
    nonce: Mapped[bytes]
    ciphertext: Mapped[bytes]
    key_id: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def put(session: Session, cipher: Cipher, scope: str, name: str, value: str) -> None:
    """Store a value, replacing the one of the same scope and name."""
    nonce, ciphertext = cipher.encrypt(scope, name, value)
    row = insert(VaultSecret).values(
        scope=scope, key_name=name, nonce=nonce, ciphertext=ciphertext, key_id=cipher.key_id
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=[VaultSecret.scope, VaultSecret.key_name],
            set_={
                "nonce": row.excluded.nonce,
                "ciphertext": row.excluded.ciphertext,
                "key_id": row.excluded.key_id,
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
        select(VaultSecret.nonce, VaultSecret.ciphertext, VaultSecret.key_id).where(
            VaultSecret.scope == scope, VaultSecret.key_name == name
        )
    ).one_or_none()
    return None if row is None else cipher.decrypt(scope, name, *row)


def get_all(session: Session, cipher: Cipher, scope: str) -> dict[str, str]:
    """Return every value of a scope by its name.

    Raises:
        VaultError: as ``get``.
    """
    rows = session.execute(
        select(VaultSecret.key_name, VaultSecret.nonce, VaultSecret.ciphertext, VaultSecret.key_id)
        .where(VaultSecret.scope == scope)
        .order_by(VaultSecret.key_name)
    )
    return {row.key_name: cipher.decrypt(scope, *row) for row in rows}


def delete(session: Session, scope: str, name: str) -> bool:
    """Forget one value and tell whether there was one."""
    gone = sa.delete(VaultSecret).where(VaultSecret.scope == scope, VaultSecret.key_name == name)
    return session.scalar(gone.returning(VaultSecret.scope)) is not None


def delete_scope(session: Session, scope: str) -> None:
    """Forget every value of a scope."""
    session.execute(sa.delete(VaultSecret).where(VaultSecret.scope == scope))


@dataclass(frozen=True, slots=True)
class Rotated:
    """One step of encrypting the vault anew.

    Attributes:
        done: rows that now have the current key.
        unreadable: places, as (scope, name), that none of the keys decrypts; left as they are.
        last: where to go on; None = that was the end.
    """

    done: int
    unreadable: list[tuple[str, str]]
    last: tuple[str, str] | None


def rotate(
    session: Session, cipher: Cipher, *, after: tuple[str, str] = ("", ""), limit: int = 100
) -> Rotated:
    """Encrypt the next rows that do not have the current key with it.

    Idempotent: what has the current key is not touched. Locks the rows until the commit, so a
    value that is being set meanwhile is not lost.

    Args:
        session: of a transaction of its own, so that an interruption keeps earlier steps.
        cipher: with the current key and those before it.
        after: where the step before ended.
        limit: rows of one step.
    """
    place = sa.tuple_(VaultSecret.scope, VaultSecret.key_name)
    rows = session.scalars(
        select(VaultSecret)
        .where(place > after, VaultSecret.key_id.is_distinct_from(cipher.key_id))
        .order_by(VaultSecret.scope, VaultSecret.key_name)
        .limit(limit)
        .with_for_update()
    ).all()
    unreadable = []
    for row in rows:
        scope, name = row.scope, row.key_name
        try:
            value = cipher.decrypt(scope, name, row.nonce, row.ciphertext, row.key_id)
        except VaultError:
            unreadable.append((scope, name))
            continue
        row.nonce, row.ciphertext = cipher.encrypt(scope, name, value)
        row.key_id = cipher.key_id
    last = (rows[-1].scope, rows[-1].key_name) if len(rows) == limit else None
    return Rotated(len(rows) - len(unreadable), unreadable, last)
