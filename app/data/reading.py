"""Reading records: by id, as pages, as a stream.

Source: REST contract part 20, sections 5.1 to 5.3 and 5.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from psycopg2 import sql

from app.core.actor import Actor
from app.core.locks import share_app
from app.core.uow import UnitOfWork
from app.data import filters
from app.data.access import STATEMENT_TIMEOUT, Target, open_entity
from app.data.errors import no_record
from app.data.execution import render
from app.data.filters import Condition
from app.data.linking import linked_page, linked_peers, linked_rows
from app.data.requests import DEFAULT_LIMIT, Listing, Query
from app.data.statements import ordering
from app.data.values import JSONValue

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
        uow,
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
    statement = target.statements.select_one(target.session)
    found = target.execute(statement, [key], often=True).scalar_one_or_none()
    if found is None:
        raise no_record(record_id)
    return str(found)


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
        actor: who asks; needs ``.read`` unless the list is public.
        app_id: the app.
        entity: the entity.
        parameters: query parameters; ``limit`` is taken as 100 when missing.
        statement_timeout: limit of the statement.

    Raises:
        Invalid: unknown filter, or a value that is not of the field's type.
    """
    target = open_entity(
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="list",
        statement_timeout=statement_timeout,
    )
    listing = Listing.of(parameters)
    where, condition = filters.equality(target.entity.by_name, listing.filters)
    limit = listing.limit or DEFAULT_LIMIT
    peers = linked_peers(target, actor, listing.linked)
    if peers:
        order = ordering(target.entity, listing.sort, descending=listing.descending)
        statement = render(target.session, linked_page(target, peers, where, order))
        paging = [limit, listing.offset]
    else:
        statement = target.statements.list_page(target.session, listing, where, limit)
        paging = [listing.offset] if listing.offset else []
    result = target.execute(
        statement,
        [*condition.parameters, *paging],
        casts=condition.casts,
        often=not peers and not listing.offset,
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
    hold: bool = False,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> Iterator[str]:
    """Yield a JSON array of every matching record, in pieces, from a server-side cursor.

    Memory stays flat. The transaction is open until the iterator is exhausted or closed; errors
    show before the first piece.

    Args:
        units: opens the unit of work.
        actor: who asks; needs ``.read`` unless the list is public.
        app_id: the app.
        entity: the entity.
        parameters: query parameters.
        hold: keep installs of the app out meanwhile; for a second try.
        statement_timeout: limit of each statement.

    Raises:
        Invalid: unknown filter, or a value that is not of the field's type.
    """
    with units() as uow:
        if hold:
            share_app(uow.session, app_id)
        target = open_entity(
            uow,
            actor,
            app_id=app_id,
            entity=entity,
            action="list",
            statement_timeout=statement_timeout,
        )
        listing = Listing.of(parameters)
        where, condition = filters.equality(target.entity.by_name, listing.filters)
        order = ordering(target.entity, listing.sort, descending=listing.descending)
        peers = linked_peers(target, actor, listing.linked)
        rows = (
            sql.SQL("SELECT r.record FROM ({}) r ORDER BY r.n").format(
                linked_rows(target, peers, where, order)
            )
            if peers
            else target.statements.stream(where, order)
        )
        values = [*condition.parameters, *([None] if peers else []), listing.offset]
        yield from _stream(target, render(target.session, rows), condition, values)


def _stream(
    target: Target,
    statement: str,
    condition: Condition,
    parameters: list[Any],  # Any: values psycopg2 adapts
) -> Iterator[str]:
    with target.errors(lambda _exc: None, condition.casts):
        result = target.session.connection().exec_driver_sql(
            statement,
            tuple(parameters),
            execution_options={"stream_results": True, "yield_per": CHUNK_ROWS},
        )
    separator = "["
    for rows in result.scalars().partitions(CHUNK_ROWS):
        yield separator + ",".join(rows)
        separator = ","
    yield "[]" if separator == "[" else "]"


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
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="list",
        statement_timeout=statement_timeout,
    )
    wanted = Query.of(body)
    where: sql.Composable = filters.TRUE
    condition = Condition()
    if wanted.where is not None:
        where, condition = filters.where(target.entity.by_name, wanted.where)
    order = ordering(target.entity, wanted.sort, descending=wanted.descending)
    peers = linked_peers(target, actor, wanted.linked)
    page = (
        linked_page(target, peers, where, order) if peers else target.statements.page(where, order)
    )
    statement = render(target.session, target.statements.counted(page, where))
    parameters = [*condition.parameters, wanted.limit, wanted.offset, *condition.parameters]
    return target.page_with_total(statement, parameters, condition.casts)
