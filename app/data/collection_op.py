"""Operations on records that app code asks for.

Source: REST contract part 30, section 4.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from psycopg2 import sql

from app.core.actor import Actor, Source
from app.core.errors import Invalid, NotFound
from app.core.uow import UnitOfWork
from app.data import filters, writing
from app.data.access import NOBODY, STATEMENT_TIMEOUT, Target, lookup
from app.data.contract import Entity
from app.data.events import announce
from app.data.execution import render
from app.data.values import JSONValue

ACTIONS = {
    "insert": "create",
    "update": "update",
    "delete": "delete",
    "find": "read",
    "list": "read",
    "findOne": "read",
}
MAX_ROWS = 10_000
Options = Mapping[str, Any]  # Any: JSON values


def collection_op(
    uow: UnitOfWork,
    actor: Actor | None,
    *,
    app_id: str,
    op: str,
    entity: str,
    data: JSONValue,
    options: JSONValue = None,
    unrestricted: bool = False,
) -> JSONValue:
    """Run one operation on an entity of the app itself.

    Args:
        uow: the unit of work; its transaction gets the actor's settings.
        actor: whose rights the call has; None = nobody's.
        app_id: the app whose process asks.
        op: insert, update, delete, find, list or findOne.
        entity: entity of that app.
        data: fields, or an equality map.
        options: limit, offset, order_by.
        unrestricted: skip the permission check (start-up code).

    Returns:
        The stored row, a list of rows, a row or None, or whether a row was deleted.

    Raises:
        AppError: with the text that goes to the app code.
    """
    if op not in ACTIONS:
        raise Invalid(f"unsupported op: {op}")
    acting = None if actor is None else actor.via(Source.COLLECTION)
    found = lookup(uow.session, acting, app_id, STATEMENT_TIMEOUT)
    if found is None or entity not in found.data.entities:
        raise NotFound(f"entity '{entity}' not found in app '{app_id}'")
    if not unrestricted:
        (acting or NOBODY).require(f"app:{app_id}:{entity}.{ACTIONS[op]}")
    if not isinstance(data, dict):
        raise Invalid("data must be a JSON object")
    target = found.target(uow.session, entity)
    result = OPERATIONS[op](target, data, options if isinstance(options, dict) else {})
    if ACTIONS[op] != "read":
        announce(uow, target)
    return result


def _insert(target: Target, data: dict[str, JSONValue], _options: Options) -> JSONValue:
    return json.loads(writing.insert(target, data))


def _update(target: Target, data: dict[str, JSONValue], _options: Options) -> JSONValue:
    record_id = _id(target, data, "update")
    changes = {name: value for name, value in data.items() if name != "id"}
    if not changes:
        raise Invalid("no fields to update")
    stored = writing.update(target, record_id, changes)
    if stored is None:
        raise NotFound("record not found")
    return json.loads(stored)


def _delete(target: Target, data: dict[str, JSONValue], _options: Options) -> JSONValue:
    return writing.remove(target, _id(target, data, "delete"))


def _id(target: Target, data: dict[str, JSONValue], op: str) -> str:
    value = data.get("id")
    if not isinstance(value, str) or not value:
        raise Invalid(f"id required for {op}")
    return target.record_id(value)


def _find(target: Target, data: dict[str, JSONValue], options: Options) -> JSONValue:
    limit = _natural(options, "limit", MAX_ROWS)
    rows = _rows(target, data, options, MAX_ROWS + 1 if limit is None else limit)
    if len(rows) > MAX_ROWS:
        raise Invalid(f"find returned more than {MAX_ROWS} records; use limit")
    return rows


def _find_one(target: Target, data: dict[str, JSONValue], options: Options) -> JSONValue:
    rows = _rows(target, data, options, 1)
    return rows[0] if rows else None


def _rows(
    target: Target, data: dict[str, JSONValue], options: Options, limit: int
) -> list[JSONValue]:
    where, condition = filters.matching(target.entity.by_name, data)
    order = _order(target.entity, options.get("order_by"))
    statement = render(target.session, target.statements.page(where, order))
    offset = _natural(options, "offset", 2**62) or 0
    parameters = [*condition.parameters, limit, offset]
    text = target.execute(statement, parameters, casts=condition.casts).scalar_one()
    rows: list[JSONValue] = json.loads(text)
    return rows


def _natural(options: Options, key: str, most: int) -> int | None:
    value = options.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Invalid(f"{key} must be an integer from 0 to {most}")
    return value


def _order(entity: Entity, order_by: JSONValue) -> sql.Composable:
    pairs = [["created_at", "asc"]] if order_by is None else order_by
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise Invalid("order_by must be an array of [field, 'asc' or 'desc']")
    parts: list[sql.Composable] = [
        sql.SQL("t.{} {}").format(
            sql.Identifier(filters.known(entity.by_name, name).name), sql.SQL(direction.upper())
        )
        for name, direction in pairs
    ]
    return sql.SQL(", ").join([*parts, sql.SQL("t.id")])


def _is_pair(pair: JSONValue) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and pair[1] in ("asc", "desc")
    )


OPERATIONS: Mapping[str, Callable[[Target, dict[str, JSONValue], Options], JSONValue]] = {
    "insert": _insert,
    "update": _update,
    "delete": _delete,
    "find": _find,
    "list": _find,
    "findOne": _find_one,
}
