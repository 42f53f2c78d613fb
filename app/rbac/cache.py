"""Resolved permissions, kept as long as no role or assignment changes anywhere.

Source: docs/performance targets; REST contract part 10, section 7.6.
"""

from __future__ import annotations

from uuid import UUID

from app.core.permissions import Permissions


class PermissionCache:
    """Permission sets by user, valid under one stamp of the authority tables.

    Every request reads the stamp from Postgres in the statement that reads its user, so a
    committed change is seen by the very next request of any process. A stamp is never used
    twice, therefore an entry can be missing but not wrong.
    """

    def __init__(self, limit: int = 10_000) -> None:
        """Take the number of users to keep at most."""
        self._limit = limit
        # Stamp and sets are swapped together, so that a slow thread can only write into the
        # sets of the stamp it has read.
        self._current: tuple[UUID | None, dict[UUID, Permissions]] = (None, {})

    def get(self, stamp: UUID, user_id: UUID) -> Permissions | None:
        """Return the set of a user under a stamp."""
        current, sets = self._current
        return sets.get(user_id) if stamp == current else None

    def latest(self, user_id: UUID) -> tuple[UUID, Permissions] | None:
        """Return the set of a user and its stamp, which may be outdated."""
        stamp, sets = self._current
        found = sets.get(user_id)
        return None if stamp is None or found is None else (stamp, found)

    def put(self, stamp: UUID, user_id: UUID, permissions: Permissions) -> None:
        """Keep the set of a user; an entry of another stamp makes all others worthless."""
        current, sets = self._current
        if stamp != current or len(sets) >= self._limit:
            sets = {}
            self._current = (stamp, sets)
        sets[user_id] = permissions
