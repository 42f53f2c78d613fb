"""Opening an entity for one transaction: who acts, does it exist, may the actor do this.

Source: REST contract part 20, sections 1.1 and 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from psycopg2 import errorcodes
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.errors import AppError, Failed, Invalid, Outdated, Unauthenticated
from app.core.ids import check_app_id, is_identifier, parse_uuid
from app.core.statements import Rows
from app.core.uow import UnitOfWork
from app.data import registry, repository
from app.data.contract import Entity, Field
from app.data.errors import StaleContract, no_entity
from app.data.execution import NO_PRELUDE, Prelude, query
from app.data.filters import not_valid
from app.data.statements import Statements

log = structlog.get_logger(__name__)

STATEMENT_TIMEOUT = timedelta(seconds=8)
READS = {"list", "read"}
STALE = {
    "TR001",  # trellis.expect_v1
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_COLUMN,
    errorcodes.INVALID_SCHEMA_NAME,
    errorcodes.DATATYPE_MISMATCH,
    errorcodes.UNDEFINED_FUNCTION,
}
Translate = Callable[[IntegrityError], AppError | None]
Cast = tuple[Field, str]


@dataclass(frozen=True, slots=True)
class Target:
    """An entity opened in a transaction whose settings name the actor.

    Attributes:
        prelude: goes before the one statement of a unit of work that has no transaction.
    """

    session: Session
    app_id: str
    entity: Entity
    statements: Statements
    hooked: bool
    prelude: Prelude = NO_PRELUDE

    def record_id(self, text: str) -> str:
        """Return a path id; a UUID unless the entity's keys are texts."""
        return text if self.entity.text_key else str(parse_uuid(text))

    def execute(
        self,
        statement: str,
        parameters: Sequence[Any],  # Any: values psycopg2 adapts
        *,
        translate: Translate = lambda _exc: None,
        casts: Sequence[Cast] = (),
        often: bool = False,
    ) -> Rows:
        """Run a rendered statement and give its failures their meaning.

        Args:
            statement: SQL text with placeholders.
            parameters: their values.
            translate: meaning of a constraint violation.
            casts: operands Postgres has to cast, to name the wrong one.
            often: the same text will come again, so it is worth being prepared.
        """
        with self.errors(translate, casts):
            return query(self.session, statement, parameters, prelude=self.prelude, often=often)

    def page_with_total(
        self,
        statement: str,
        parameters: Sequence[Any],  # Any: values psycopg2 adapts
        casts: Sequence[Cast],
    ) -> str:
        """Run a statement that gives a page's JSON and a count; return the query's answer."""
        row: Any = self.execute(statement, parameters, casts=casts).one()  # Any: text and count
        return f'{{"data":{row[0]},"total":{row[1]}}}'

    @contextmanager
    def errors(self, translate: Translate, casts: Sequence[Cast]) -> Iterator[None]:
        """Raise what a database error inside means to the client."""
        try:
            yield
        except DBAPIError as exc:
            raise self._meaning(exc, translate, casts) from exc

    def _meaning(self, exc: DBAPIError, translate: Translate, casts: Sequence[Cast]) -> Exception:
        state = getattr(exc.orig, "pgcode", None) or ""
        if state in STALE:
            return StaleContract()
        if isinstance(exc, IntegrityError):
            return translate(exc) or _unexpected(exc)
        if isinstance(exc, DataError) or state.startswith("22"):
            return _wrong_cast(self.session, casts) or _unexpected(exc)
        # Lost connections and cancelled statements are the edge's business.
        known = exc.connection_invalidated or not state or state.startswith(("08", "57"))
        return exc if known else _unexpected(exc)


@dataclass(frozen=True, slots=True)
class Opened:
    """An app's entities in a transaction."""

    data: registry.AppData

    def target(self, session: Session, entity: str, prelude: Prelude = NO_PRELUDE) -> Target:
        """Return one of the entities, ready for statements."""
        data = self.data
        statements = data.statements[entity].quoted(session)
        return Target(session, data.app_id, data.entities[entity], statements, data.hooked, prelude)


def open_entity(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    action: str,
    record_id: str | None = None,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> Target:
    """Return an entity ready for statements in this transaction.

    Args:
        uow: with an open transaction, whose settings are changed until it ends; or a single one:
            then the contract is the remembered one, and the statement checks it and the actor.
        actor: who acts; without a user only what the manifest makes public.
        app_id: as in the path.
        entity: as in the path.
        action: ``list``, ``read``, ``create``, ``update`` or ``delete``.
        record_id: path id, checked before existence.
        statement_timeout: limit of each statement.

    Raises:
        Unauthenticated: no user, and the action is not public.
        Forbidden: reserved schema, or permission missing.
        Invalid: the path id is not a UUID though the entity's ids are.
        NotFound: no such entity.
        Outdated: a single unit of work, and nothing is remembered.
    """
    if actor.user_id is not None:
        check_app_id(app_id)
    found = _entered(uow, actor, app_id, statement_timeout)
    public = found is not None and found.data.is_public(entity, action)
    if actor.user_id is None and not public:
        raise Unauthenticated("authentication required")
    target = None if found is None else found.data.entities.get(entity)
    if record_id is not None and (target is None or not target.text_key):
        parse_uuid(record_id)
    if found is None or target is None:
        raise no_entity(app_id, entity)
    if not public:
        actor.require(f"app:{app_id}:{entity}.{'read' if action == 'list' else action}")
    if not uow.single:
        return found.target(uow.session, entity)
    return found.target(
        uow.session,
        entity,
        repository.by_memory(
            actor,
            round(statement_timeout.total_seconds() * 1000),
            app_id=app_id,
            stamp=found.data.stamp,
            writes=action not in READS,
        ),
    )


def _entered(
    uow: UnitOfWork, actor: Actor, app_id: str, statement_timeout: timedelta
) -> Opened | None:
    if not uow.single:
        return lookup(uow.session, actor, app_id, statement_timeout)
    known = registry.remembered(app_id)
    if known is None:
        raise Outdated
    return Opened(known)


def lookup(
    session: Session, actor: Actor | None, app_id: str, statement_timeout: timedelta
) -> Opened | None:
    """Set the transaction's actor and return the app's entities; None if it has none."""
    if not is_identifier(app_id):
        return None
    limit_ms = round(statement_timeout.total_seconds() * 1000)
    stamp = repository.open_app(session, app_id, actor, limit_ms)
    found = registry.load(session, app_id, stamp)
    return None if found is None else Opened(found)


NOBODY = Actor(user_id=None)


def _wrong_cast(session: Session, casts: Sequence[Cast]) -> Invalid | None:
    """Try the casts one by one on another connection, as this transaction is lost."""
    with session.get_bind().engine.connect() as connection:
        for field, text in casts:
            try:
                connection.exec_driver_sql(f"SELECT %s::{field.kind.value}", (text,))
            except DBAPIError:
                return not_valid(field, text)
    return None


def _unexpected(exc: DBAPIError) -> AppError:
    log.error("data_statement_failed", exc_info=exc)
    return Failed("unexpected database error")
