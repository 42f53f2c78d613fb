"""What a refused write means to the client.

Source: REST contract part 20, sections 5.4 and 5.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg2 import errorcodes
from sqlalchemy.exc import IntegrityError

from app.core.errors import AppError, Conflict, Invalid
from app.data.contract import Entity
from app.data.records import not_allowed
from app.data.values import JSONValue, WrongValue, scalar_text

REFERENCED = {
    errorcodes.FOREIGN_KEY_VIOLATION,
    errorcodes.RESTRICT_VIOLATION,
    errorcodes.NOT_NULL_VIOLATION,
    errorcodes.CHECK_VIOLATION,
}


def of_write(exc: IntegrityError, entity: Entity, body: Mapping[str, JSONValue]) -> AppError | None:
    """Return the error of a refused insert or update; None if it is unexpected.

    Args:
        exc: what Postgres said.
        entity: the entity written to.
        body: what the client sent.
    """
    original: Any = exc.orig  # Any: psycopg2's errors are untyped
    state, name = original.pgcode, original.diag.constraint_name or ""
    if state == errorcodes.NOT_NULL_VIOLATION:
        return Invalid(f"missing required field: '{original.diag.column_name}'")
    if state == errorcodes.FOREIGN_KEY_VIOLATION and name in entity.links:
        field = entity.links[name]
        value = _shown(body.get(field.name, field.default))
        return Conflict(f"field '{field.name}': no '{field.target}' with id '{value}'")
    if state == errorcodes.CHECK_VIOLATION:
        if name in entity.enums:
            field = entity.enums[name]
            return not_allowed(field, _shown(body.get(field.name, field.default)))
        return Invalid(f"check '{name}' not satisfied")
    if state in {errorcodes.UNIQUE_VIOLATION, errorcodes.EXCLUSION_VIOLATION}:
        return Conflict(f"duplicate value for {_duplicated(entity, name)}")
    return None


def of_delete(exc: IntegrityError) -> AppError | None:
    """Return the error of a refused delete; None if it is unexpected."""
    original: Any = exc.orig  # Any: psycopg2's errors are untyped
    if original.pgcode in REFERENCED:
        return Conflict(f"record is referenced by '{original.diag.table_name}'")
    return None


def _duplicated(entity: Entity, name: str) -> str:
    for index in entity.indexes:
        if index.name == name and index.plain_columns:
            return ", ".join(index.plain_columns)
    return "id" if name == f"{entity.name}_pkey"[:63] else name


def _shown(value: JSONValue) -> str:
    try:
        return scalar_text(value)
    except WrongValue:
        return "value"
