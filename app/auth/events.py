"""What happens to accounts; roles and other areas hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.core.actor import Actor
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
    """An account of a human or a service is about to go. A subscriber may refuse by raising."""

    user_id: UUID
    actor_id: UUID


@dataclass(frozen=True, slots=True)
class UserDeleted(Event):
    """An account of a human or a service is gone."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class RolesOffered(Event):
    """Somebody makes a link that confers roles. A subscriber refuses by raising."""

    actor: Actor
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolesConferred(Event):
    """A link was used: its roles are given in its author's name. A subscriber may refuse."""

    user_id: UUID
    roles: tuple[str, ...]
    author_id: UUID
