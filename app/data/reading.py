"""Reading records: by id, as pages, as a stream.

Source: REST contract part 20, sections 5.1 to 5.3 and 5.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg2 import sql

from app.core.actor import Actor
from app.core.errors import Invalid
from app.core.paging import clamp, whole_number
from app.core.uow import UnitOfWork
from app.data import filters
from app.data.access import STATEMENT_TIMEOUT, Target, open_entity
from app.data.errors import no_record
from app.data.execution import render
from app.data.filters import Condition
from app.data.statements import ordering
from app.data.values import JSONValue

RESERVED = frozenset({"limit", "offset", "sort", "order", "linked"})
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_OFFSET = 2**62
CHUNK_ROWS = 500


def get(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    record_id: str,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Return one record as JSON text.

    Raises:
        NotFound: no such entity or record.
        Forbidden: the actor lacks ``.read``.
    """
    target = open_entity(
        uow.session,
        actor,
        app_id=app_id,
        entity=entity,
        action="read",
        record_id=record_id,
        statement_timeout=statement_timeout,
    )
    key = target.record_id(record_id)
    if "\0" in key:
        raise no_record(record_id)
    found = target.execute(target.statements.select_one(target.session), [key]).scalar_one_or_none()
    if found is None:
        raise no_record(record_id)
    return str(found)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list request asks for.

    Attributes:
        filters: field names and texts.
        limit: None = every row.
    """

    filters: Mapping[str, str]
    sort: str = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Listing:
        """Return the listing that query parameters ask for."""
        limit = None
        if "limit" in parameters:
            wanted = whole_number(parameters["limit"])
            limit = DEFAULT_LIMIT if wanted is None else clamp(wanted, 1, MAX_LIMIT)
        return cls(
            filters={k: v for k, v in parameters.items() if k not in RESERVED},
            sort=parameters.get("sort", "created_at"),
            descending=parameters.get("order", "").lower() != "asc",
            limit=limit,
            offset=clamp(whole_number(parameters.get("offset")) or 0, 0, MAX_OFFSET),
        )


def list_page(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    parameters: Mapping[str, str],
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Return one page of records as a JSON array.

    Args:
        uow: the unit of work.
        actor: who asks; needs ``.read``.
        app_id: the app.
        entity: the entity.
        parameters: query parameters; ``limit`` is taken as 100 when missing.
        statement_timeout: limit of the statement.

    Raises:
        Invalid: unknown filter, or a value that is not of the field's type.
    """
    target = open_entity(
        uow.session,
        actor,
        app_id=app_id,
        entity=entity,
        action="read",
        statement_timeout=statement_timeout,
    )
    listing = Listing.of(parameters)
    where, condition = filters.equality(target.entity, listing.filters)
    order = ordering(target.entity, listing.sort, descending=listing.descending)
    statement = render(target.session, target.statements.page(where, order))
    paging = [listing.limit or DEFAULT_LIMIT, listing.offset]
    result = target.execute(
        statement, [*condition.parameters, *paging], casts=condition.casts
    )
    return str(result.scalar_one())


UnitsOfWork = Callable[[], AbstractContextManager[UnitOfWork]]


def open_list(
    units: UnitsOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    parameters: Mapping[str, str],
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> Iterator[str]:
    """Yield a JSON array of every matching record, in pieces, from a server-side cursor.

    Memory stays flat. The transaction is open until the iterator is exhausted or closed; errors
    show before the first piece.

    Raises:
        Invalid: unknown filter, or a value that is not of the field's type.
    """
    with units() as uow:
        target = open_entity(
            uow.session,
            actor,
            app_id=app_id,
            entity=entity,
            action="read",
            statement_timeout=statement_timeout,
        )
        listing = Listing.of(parameters)
        where, condition = filters.equality(target.entity, listing.filters)
        order = ordering(target.entity, listing.sort, descending=listing.descending)
        statement = render(target.session, target.statements.stream(where, order))
        yield from _stream(target, statement, condition, listing.offset)


def _stream(target: Target, statement: str, condition: Condition, offset: int) -> Iterator[str]:
    with target.errors(lambda _exc: None, condition.casts):
        result = target.session.connection().exec_driver_sql(
            statement,
            (*condition.parameters, offset),
            execution_options={"stream_results": True, "yield_per": CHUNK_ROWS},
        )
    separator = "["
    for rows in result.scalars().partitions(CHUNK_ROWS):
        yield separator + ",".join(rows)
        separator = ","
    yield "[]" if separator == "[" else "]"


@dataclass(frozen=True, slots=True)
class Query:
    """The body of a query, checked for shape."""

    where: JSONValue
    sort: str
    descending: bool
    limit: int
    offset: int
    linked: JSONValue

    @classmethod
    def of(cls, body: JSONValue) -> Query:
        """Return the query a JSON body asks for.

        Raises:
            Invalid: a key has the wrong type.
        """
        if not isinstance(body, dict):
            raise Invalid("body must be an object")
        return cls(
            where=body.get("where"),
            sort=_typed(body, "orderBy", str, "a string", "created_at"),
            descending=_typed(body, "order", str, "a string", "desc").lower() != "asc",
            limit=clamp(_integer(body, "limit", DEFAULT_LIMIT), 1, MAX_LIMIT),
            offset=clamp(_integer(body, "offset", 0), 0, MAX_OFFSET),
            linked=_linked(body),
        )


def _typed(body: Mapping[str, Any], key: str, kind: type, name: str, default: str) -> str:  # Any: JSON
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Invalid(f"'{key}' must be {name}")
    return str(value)


def _integer(body: Mapping[str, Any], key: str, default: int) -> int:  # Any: JSON values
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"'{key}' must be an integer")
    return value


def _linked(body: Mapping[str, Any]) -> JSONValue:  # Any: JSON values
    value = body.get("linked")
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if value is not None and not isinstance(value, bool) and not texts:
        raise Invalid("'linked' must be a boolean or an array of strings")
    return value


def query(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    body: JSONValue,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Return ``{"data": [...], "total": n}`` as JSON text.

    Raises:
        Invalid: the body breaks a rule of section 5.2 or 5.3.
    """
    target = open_entity(
        uow.session,
        actor,
        app_id=app_id,
        entity=entity,
        action="read",
        statement_timeout=statement_timeout,
    )
    wanted = Query.of(body)
    where: sql.Composable = filters.TRUE
    condition = Condition()
    if wanted.where is not None:
        where, condition = filters.where(target.entity, wanted.where)
    order = ordering(target.entity, wanted.sort, descending=wanted.descending)
    statement = render(target.session, target.statements.counted_page(where, order))
    parameters = [*condition.parameters, wanted.limit, wanted.offset, *condition.parameters]
    data, total = target.execute(statement, parameters, casts=condition.casts).one()
    return f'{{"data":{data},"total":{total}}}'
