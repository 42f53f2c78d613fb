"""Filters of the record endpoints: from JSON or query parameters to a condition with parameters.

Source: REST contract part 20, sections 5.1 and 5.3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import sql

from app.core.errors import Invalid
from app.data.contract import Field
from app.data.values import CONVERTERS, JSONValue, Kind, WrongValue, compact, scalar_text

MAX_DEPTH = 32
Fields = Mapping[str, Field]
TRUE = sql.SQL("TRUE")
FALSE = sql.SQL("FALSE")
COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
PATTERNS = {"$like": "LIKE", "$ilike": "ILIKE"}


def not_valid(target: Field, text: str) -> Invalid:
    """Return the error of an operand that is not of the field's type."""
    return Invalid(f"field '{target.name}': '{text}' is not a valid {target.type}")


@dataclass(slots=True)
class Condition:
    """A condition under construction.

    Attributes:
        parameters: values in the order of the placeholders.
        casts: texts that Postgres will cast, to find the wrong one if it refuses.
    """

    parameters: list[Any] = field(default_factory=list)  # Any: values psycopg2 adapts
    casts: list[tuple[Field, str]] = field(default_factory=list)

    def value(self, target: Field, operand: JSONValue) -> sql.SQL:
        """Return a placeholder for one non-null operand, cast to the field's type."""
        self.parameters.append(self._bound(target, operand))
        return sql.SQL(f"%s::{target.kind.value}")

    def _bound(self, target: Field, operand: JSONValue) -> Any:  # Any: a value psycopg2 adapts
        if isinstance(operand, list) and target.kind.is_array:
            return _converted(target, operand)
        if isinstance(operand, list | dict):
            if target.kind is not Kind.JSON:
                raise not_valid(target, json.dumps(operand))
            return _converted(target, operand)
        text = operand_text(target, operand)
        if target.kind.is_array:
            return _converted(target, _parsed(target, text))
        if target.kind is not Kind.TEXT:
            self.casts.append((target, text))
        return text


def operand_text(target: Field, operand: JSONValue) -> str:
    """Return the text of a scalar operand."""
    try:
        text = scalar_text(operand)
    except WrongValue as exc:
        raise not_valid(target, str(operand)) from exc
    if "\0" in text:
        raise not_valid(target, text.replace("\0", ""))
    return text


def equality(fields: Fields, filters: Mapping[str, str]) -> tuple[sql.Composable, Condition]:
    """Return the condition of a list's query parameters.

    Args:
        fields: columns of what is listed.
        filters: field names and texts.

    Raises:
        Invalid: unknown field, or a text that is not JSON where JSON is needed.
    """
    condition = Condition()
    parts = []
    for name, text in filters.items():
        target = known(fields, name)
        parts.append(_compare(target, "=", condition.value(target, text)))
    return joined(" AND ", parts, TRUE), condition


def matching(fields: Fields, values: Mapping[str, JSONValue]) -> tuple[sql.Composable, Condition]:
    """Return the condition of app code's equality map; null means IS NULL."""
    condition = Condition()
    parts = [_equals(condition, known(fields, name), value) for name, value in values.items()]
    return joined(" AND ", parts, TRUE), condition


def where(fields: Fields, body: JSONValue) -> tuple[sql.Composable, Condition]:
    """Return the condition of a query's ``where``.

    Raises:
        Invalid: the contract's error table of section 5.3.
    """
    condition = Condition()
    return _where(fields, condition, body, 1), condition


def known(fields: Fields, name: str) -> Field:
    """Return a column by name.

    Raises:
        Invalid: the entity has no such field.
    """
    target = fields.get(name)
    if target is None:
        raise Invalid(f"unknown field '{name}'")
    return target


def joined(word: str, parts: Iterable[sql.Composable], empty: sql.SQL) -> sql.Composable:
    """Return conditions joined by AND or OR, each in parentheses."""
    wrapped = [sql.SQL("({})").format(part) for part in parts]
    return sql.SQL(word).join(wrapped) if wrapped else empty


def _where(fields: Fields, condition: Condition, body: JSONValue, depth: int) -> sql.Composable:
    if not isinstance(body, dict):
        raise Invalid("where must be an object")
    if depth > MAX_DEPTH:
        raise Invalid("where is nested too deeply")
    parts = []
    for key, operand in body.items():
        if key in {"$and", "$or"}:
            parts.append(_combined(fields, condition, key, operand, depth))
        elif key == "$not":
            inner = _where(fields, condition, operand, depth + 1)
            parts.append(sql.SQL("NOT ({})").format(inner))
        elif key.startswith("$"):
            raise Invalid(f"unknown operator '{key}'")
        else:
            parts.append(_field(condition, known(fields, key), operand))
    return joined(" AND ", parts, TRUE)


def _combined(
    fields: Fields, condition: Condition, key: str, operand: JSONValue, depth: int
) -> sql.Composable:
    if not isinstance(operand, list):
        raise Invalid(f"{key} needs an array")
    parts = [_where(fields, condition, item, depth + 1) for item in operand]
    return joined(" AND " if key == "$and" else " OR ", parts, TRUE)


def _field(condition: Condition, target: Field, operand: JSONValue) -> sql.Composable:
    if isinstance(operand, dict) and (
        target.kind is not Kind.JSON or any(key.startswith("$") for key in operand)
    ):
        parts = [_operation(condition, target, op, value) for op, value in operand.items()]
        return joined(" AND ", parts, TRUE)
    return _equals(condition, target, operand)


def _equals(condition: Condition, target: Field, operand: JSONValue) -> sql.Composable:
    if operand is None:
        return sql.SQL("{} IS NULL").format(_column(target))
    return _compare(target, "=", condition.value(target, operand))


def _column(target: Field) -> sql.Composed:
    if target.absent:
        return sql.SQL("NULL::{}").format(sql.SQL(target.kind.value))
    return sql.SQL("t.{}").format(sql.Identifier(target.name))


def _compare(target: Field, operator: str, value: sql.Composable) -> sql.Composed:
    return sql.SQL("{} {} {}").format(_column(target), sql.SQL(operator), value)


def _operation(condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    build = OPERATIONS.get(op)
    if build is None:
        raise Invalid(f"unknown operator '{op}'")
    return build(condition, target, op, operand)


def _eq(condition: Condition, target: Field, _op: str, operand: JSONValue) -> sql.Composable:
    return _equals(condition, target, operand)


def _ne(condition: Condition, target: Field, _op: str, operand: JSONValue) -> sql.Composable:
    if operand is None:
        return sql.SQL("{} IS NOT NULL").format(_column(target))
    return _compare(target, "<>", condition.value(target, operand))


def _comparison(condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    if operand is None:
        raise Invalid(f"{op} needs a value")
    return _compare(target, COMPARISONS[op], condition.value(target, operand))


def _pattern(condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    if not isinstance(operand, str):
        raise Invalid(f"{op} needs a string")
    condition.parameters.append(operand_text(target, operand))
    return sql.SQL("{}::text {} %s").format(_column(target), sql.SQL(PATTERNS[op]))


def _membership(condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    if not isinstance(operand, list) or any(item is None for item in operand):
        raise Invalid(f"{op} needs an array")
    if not operand:
        return FALSE if op == "$in" else TRUE
    if target.kind.is_array or any(isinstance(item, list | dict) for item in operand):
        parts = [_compare(target, "=", condition.value(target, item)) for item in operand]
        inside = joined(" OR ", parts, FALSE)
    else:
        texts = [operand_text(target, item) for item in operand]
        condition.casts += [(target, text) for text in texts]
        condition.parameters.append(texts)
        inside = sql.SQL("{} = ANY(%s::{}[])").format(_column(target), sql.SQL(target.kind.value))
    return inside if op == "$in" else sql.SQL("NOT ({})").format(inside)


def _contains(condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    if not target.kind.is_array:
        raise Invalid("$contains works on array fields only")
    if not isinstance(operand, list) or any(item is None for item in operand):
        raise Invalid(f"{op} needs an array")
    if not operand:
        return TRUE
    return _compare(target, "@>", condition.value(target, operand))


def _is_null(_condition: Condition, target: Field, op: str, operand: JSONValue) -> sql.Composable:
    if not isinstance(operand, bool):
        raise Invalid(f"{op} needs true or false")
    word = sql.SQL("IS NULL" if operand else "IS NOT NULL")
    return sql.SQL("{} {}").format(_column(target), word)


OPERATIONS: Mapping[str, Callable[[Condition, Field, str, JSONValue], sql.Composable]] = {
    "$eq": _eq,
    "$ne": _ne,
    **dict.fromkeys(COMPARISONS, _comparison),
    **dict.fromkeys(PATTERNS, _pattern),
    "$in": _membership,
    "$nin": _membership,
    "$contains": _contains,
    "$isNull": _is_null,
}


def _parsed(target: Field, text: str) -> JSONValue:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise not_valid(target, text) from exc


def _converted(target: Field, operand: JSONValue) -> Any:  # Any: a value psycopg2 adapts
    try:
        return CONVERTERS[target.kind](operand)
    except WrongValue as exc:
        raise not_valid(target, _echo(operand)) from exc


def _echo(operand: JSONValue) -> str:
    try:
        return operand if isinstance(operand, str) else compact(operand)
    except WrongValue:
        return "value"
