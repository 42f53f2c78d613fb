"""Records and the tables that hold them.

Source: REST contract part 20, sections 4 and 5; part 30, section 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.core.actor import ANONYMOUS, Actor
from app.core.errors import Unauthenticated
from app.core.locks import share_app
from app.core.uow import UnitOfWork
from app.data import contract, contract_rules, repository, sync
from app.data.access import STATEMENT_TIMEOUT, lookup
from app.data.app_migrations import run_app_migrations
from app.data.collection_op import collection_op
from app.data.contract import JSONObject
from app.data.linking import federated_query
from app.data.plan import Change
from app.data.reading import get, list_page, open_list, query
from app.data.requests import MAX_LIMIT
from app.data.shape import Node, distinct, identifier, storable
from app.data.writing import bulk, create, delete, patch

__all__ = [
    "MAX_LIMIT",
    "Change",
    "Node",
    "apply_contract",
    "bulk",
    "collection_op",
    "create",
    "delete",
    "distinct",
    "drift",
    "entity_exists",
    "federated_query",
    "get",
    "identifier",
    "list_page",
    "mark_hooked",
    "open_list",
    "parse_contract",
    "patch",
    "query",
    "remove_app",
    "require_public",
    "run_app_migrations",
    "session_context",
    "storable",
]


def session_context(session: Session, actor: Actor | None) -> None:
    """Name the actor of every row change in the rest of this transaction.

    The audit trigger reads it; so do row policies. Also sets the 8 s statement limit.

    Args:
        session: an open transaction.
        actor: user, delegator and source are taken from it; None = nobody.
    """
    repository.set_context(session, actor, round(STATEMENT_TIMEOUT.total_seconds() * 1000))


def parse_contract(manifest: Mapping[str, Any]) -> list[JSONObject]:  # Any: JSON values
    """Return the normalised ``dataContract`` of a manifest.

    Raises:
        Invalid: the first broken rule.

    Source: REST contract part 20, sections 3.2, 3.3, 3.9.
    """
    return contract_rules.normalise(Node(manifest))


def apply_contract(
    uow: UnitOfWork,
    app_id: str,
    data_contract: list[JSONObject],
    public: Mapping[str, Sequence[str]],
) -> None:
    """Bring an app's tables in step with a normalised data contract and make it current.

    Args:
        uow: the unit of work.
        app_id: the app.
        data_contract: its normalised entities.
        public: actions that need neither token nor permission, by entity.

    Locks: the tables that change. The caller holds the app's install lock.

    Raises:
        Conflict: rows forbid a change.
        Invalid: Postgres refuses SQL of the manifest.
    """
    if data_contract:
        sync.apply(uow.session, app_id, contract.load(data_contract))
    repository.store(uow.session, app_id, data_contract, public)


def drift(session: Session, app_id: str, data_contract: list[JSONObject]) -> list[Change]:
    """Return what ``apply_contract`` would change now, changing nothing.

    Source: REST contract part 20, section 4.7.
    """
    return sync.plan(session, app_id, contract.load(data_contract)).changes


def require_public(session: Session, *, app_id: str, entity: str, action: str) -> None:
    """Let nobody in where an app's manifest makes an action public.

    Raises:
        Unauthenticated: it does not.
    """
    found = lookup(session, ANONYMOUS, app_id, STATEMENT_TIMEOUT)
    if found is None or not found.data.is_public(entity, action):
        raise Unauthenticated("authentication required")


def hold_contract(uow: UnitOfWork, app_id: str) -> None:
    """Keep an app's data contract as it is until the transaction ends; wait if it is changing."""
    share_app(uow.session, app_id)


def remove_app(uow: UnitOfWork, app_id: str) -> None:
    """Drop an app's tables with all rows. Idempotent."""
    repository.remove(uow.session, app_id)
    sync.drop_schema(uow.session, app_id)


def entity_exists(session: Session, app_id: str, entity: str) -> bool:
    """Tell whether an entity is in an app's current manifest."""
    found = lookup(session, None, app_id, STATEMENT_TIMEOUT)
    return found is not None and entity in found.data.entities


def mark_hooked(uow: UnitOfWork, app_id: str, *, hooked: bool) -> None:
    """Say whether any hook watches an app, so that writes to it wake its worker."""
    repository.mark_hooked(uow.session, app_id, hooked=hooked)
