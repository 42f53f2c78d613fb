"""What happens to accounts; roles and other areas hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.core.events import Event


@dataclass(frozen=True, slots=True)
class UserCreated(Event):
    """A human account exists from now on.

    Attributes:
        roles_wanted: the first of these that exists is given to the user, unless there is no
            administrator yet; empty: no role.
    """

    user_id: UUID
    roles_wanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserDeleting(Event):
    """A human account is about to go. A subscriber may refuse by raising."""

    user_id: UUID
    actor_id: UUID


@dataclass(frozen=True, slots=True)
class UserDeleted(Event):
    """A human account is gone."""

    user_id: UUID
