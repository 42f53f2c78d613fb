"""Names of what schema sync makes, and how it marks what it owns."""

from __future__ import annotations

import hashlib
from typing import Any

MAX_BYTES = 63
MARK = "trellis:"


def digest(*parts: str) -> str:
    """Return a short stable hash of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def bounded(name: str) -> str:
    """Return a name of at most 63 bytes; a longer one is cut and told apart by its hash."""
    raw = name.encode()
    if len(raw) <= MAX_BYTES:
        return name
    tail = f"_{digest(name)}"
    return raw[: MAX_BYTES - len(tail)].decode(errors="ignore") + tail


def foreign_key(entity: str, field: str) -> str:
    """Return the name of a link's constraint."""
    return bounded(f"fk_{entity}_{field}")


def link_index(app_id: str, entity: str, field: str) -> str:
    """Return the name of the index on a link."""
    return bounded(f"idx_{app_id}_{entity}_{field}")


def identity_index(entity: str, key: str) -> str:
    """Return the name of the index on an identity key."""
    return bounded(f"idx_identity_{entity}_{key}")


def order_index(entity: str) -> str:
    """Return the name of the index that serves the default order of lists."""
    return bounded(f"ix_created_{entity}")


def enum_check(entity: str, field: str) -> str:
    """Return the name of the check that keeps a field's allowed values."""
    return bounded(f"chk_{entity}_{field}")


def mark(*declaration: Any) -> str:  # Any: parts of a declaration, hashed by their text
    """Return the comment that says: made from a manifest, by this declaration."""
    return MARK + digest(*(repr(part) for part in declaration))
