"""Who acts: passed to every use case, never fetched from a global."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from app.core.errors import Forbidden, missing_permission
from app.core.permissions import Permissions


class Kind(StrEnum):
    """Kinds of principals."""

    HUMAN = "human"
    AGENT = "agent"
    SERVICE = "service"


class Source(StrEnum):
    """How a change reached the data (``trigger_ref`` of the audit log)."""

    API = "api"
    AGENT_TOOL = "agent_tool"
    COLLECTION = "collection"
    APP_SQL = "app_sql"
    APP_TX = "app_tx"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Actor:
    """A principal with the permissions it has right now.

    Attributes:
        user_id: None for anonymous work.
        delegator_id: on whose authority an agent acts.
        app_scope: the app a caller token is limited to.
        stamp: state of the authority tables the permissions were read with, if known.
        hook_depth: how many hooks in a row led to this work.
    """

    user_id: UUID | None
    email: str = ""
    kind: Kind = Kind.HUMAN
    permissions: Permissions = field(default_factory=Permissions)
    source: Source = Source.API
    delegator_id: UUID | None = None
    app_scope: str | None = None
    stamp: UUID | None = field(default=None, compare=False)
    hook_depth: int = 0

    @property
    def is_admin(self) -> bool:
        """Whether the effective permissions contain ``*``."""
        return self.permissions.everything

    def can(self, key: str) -> bool:
        """Tell whether the actor holds a permission."""
        return self.permissions.match(key)

    def require(self, key: str) -> None:
        """Raise ``Forbidden`` unless the actor holds ``key``."""
        if not self.can(key):
            raise missing_permission(key)

    def require_admin(self) -> None:
        """Raise ``Forbidden`` unless the actor is an administrator."""
        if not self.is_admin:
            raise Forbidden("administrator permission required")

    def via(self, source: Source) -> Actor:
        """Return the same principal acting through another path."""
        return replace(self, source=source)


ANONYMOUS = Actor(user_id=None, source=Source.PUBLIC)
