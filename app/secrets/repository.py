"""Names in the vault, as far as the secrets endpoints may see them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.vault import VaultSecret

GRAMMAR = "^[A-Za-z0-9_]{1,128}$"


def names(session: Session, scope: str) -> list[str]:
    """Return the names in a scope that follow the grammar of secrets, in byte order."""
    query = select(VaultSecret.key_name).where(
        VaultSecret.scope == scope, VaultSecret.key_name.regexp_match(GRAMMAR)
    )
    return sorted(session.scalars(query))
