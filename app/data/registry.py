"""The entities of every app, cached per process and never stale.

Each transaction reads the app's stamp from the database; only an unknown stamp makes the
process read the definitions again. So an install acts on the very next request of every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.data import contract, repository
from app.data.contract import Entity
from app.data.statements import Statements


@dataclass(frozen=True)
class AppData:
    """The entities of one app in one version, with their rendered statements.

    Attributes:
        public: actions that need neither token nor permission, by entity.
        hooked: some hook watches the app.
    """

    app_id: str
    stamp: UUID
    entities: Mapping[str, Entity]
    statements: Mapping[str, Statements]
    public: Mapping[str, frozenset[str]]
    hooked: bool

    def is_public(self, entity: str, action: str) -> bool:
        """Tell whether an action on an entity needs neither token nor permission."""
        return action in self.public.get(entity, ())


_cache: dict[str, AppData] = {}


def remembered(app_id: str) -> AppData | None:
    """Return an app's entities as this process last saw them."""
    return _cache.get(app_id)


def load(session: Session, app_id: str, stamp: UUID | None) -> AppData | None:
    """Return an app's entities as of a stamp read in this transaction; None: no such app."""
    if stamp is None:
        _cache.pop(app_id, None)
        return None
    known = _cache.get(app_id)
    if known is not None and known.stamp == stamp:
        return known
    found = repository.contract(session, app_id)
    if found is None:
        return None
    current, stored, listed, hooked = found
    entities = contract.load(stored)
    statements = {name: Statements(app_id, entity) for name, entity in entities.items()}
    public = {name: frozenset(actions) for name, actions in listed.items()}
    data = AppData(app_id, current, entities, statements, public, hooked)
    _cache[app_id] = data
    return data
