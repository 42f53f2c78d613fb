"""Creating, changing and deleting records.

Source: REST contract part 20, sections 5.4 to 5.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from app.core.actor import Actor
from app.core.errors import AppError, Invalid
from app.core.uow import UnitOfWork
from app.data import records, violations
from app.data.access import STATEMENT_TIMEOUT, Target, open_entity
from app.data.errors import no_record
from app.data.events import announce
from app.data.execution import query, render
from app.data.values import Bound, JSONValue

MAX_BULK = 1000
MAX_VALUES = 65_535


def create(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    body: JSONValue,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Store a record.

    Returns:
        The record as JSON text.

    Raises:
        NotFound: no such entity.
        Forbidden: the actor lacks ``.create``.
        Invalid: the body breaks a rule.
        Conflict: a link or a unique index refuses it.
    """
    target = open_entity(
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="create",
        statement_timeout=statement_timeout,
    )
    stored = insert(target, body)
    announce(uow, target)
    return stored


def insert(target: Target, body: JSONValue) -> str:
    """Store a record of an opened entity; return it as JSON text."""
    return _insert(target, records.for_create(target.entity, body), body)


def _insert(target: Target, values: Mapping[str, Bound], body: Mapping[str, JSONValue]) -> str:
    result = target.execute(
        target.statements.insert(target.session, tuple(values)),
        list(values.values()),
        translate=lambda exc: violations.of_write(exc, target.entity, body),
        often=True,
    )
    return str(result.scalar_one())


def bulk(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    body: JSONValue,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Store up to 1000 records or none.

    Returns:
        The records as a JSON array, in input order.

    Raises:
        Invalid: as ``create``, prefixed with the record's index.
        Conflict: as ``create``, prefixed with the record's index.
    """
    target = open_entity(
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="create",
        statement_timeout=statement_timeout,
    )
    rows = _checked(target, body)
    stored = _insert_together(target, rows) or _insert_singly(target, rows)
    announce(uow, target)
    return stored


Rows = Sequence[tuple[dict[str, Bound], Mapping[str, JSONValue]]]


def _insert_together(target: Target, rows: Rows) -> str | None:
    """Store rows with one statement; None, and nothing stored, if a constraint refuses one."""
    sent = {name for values, _ in rows for name in values}
    names = [name for name in target.entity.writable if name in sent]
    statement = render(target.session, target.statements.insert_many(names, [v for v, _ in rows]))
    parameters = [values[n] for values, _ in rows for n in names if n in values]
    try:
        with target.session.begin_nested(), target.errors(lambda _exc: Refused(), ()):
            return str(query(target.session, statement, parameters).scalar_one())
    except Refused:
        return None


def _insert_singly(target: Target, rows: Rows) -> str:
    """Store rows one by one, which tells the one that is refused."""
    stored = []
    for position, (values, sent) in enumerate(rows):
        try:
            stored.append(_insert(target, values, sent))
        except AppError as exc:
            raise _at(position, exc) from exc
    return f"[{','.join(stored)}]"


class Refused(AppError):
    """Some row of several is refused by a constraint."""

    def __init__(self) -> None:
        super().__init__("refused")


def _checked(
    target: Target, body: JSONValue
) -> list[tuple[dict[str, Bound], Mapping[str, JSONValue]]]:
    if not isinstance(body, list):
        raise Invalid("body must be an array")
    if not body:
        raise Invalid("array must not be empty")
    if len(body) > MAX_BULK:
        raise Invalid(f"at most {MAX_BULK} records per call")
    rows = []
    for position, item in enumerate(body):
        try:
            rows.append((records.for_create(target.entity, item), item))
        except AppError as exc:
            raise _at(position, exc) from exc
    if len(rows) * len({name for values, _ in rows for name in values}) > MAX_VALUES:
        raise Invalid("too many values in one call")
    return rows


def _at(position: int, exc: AppError) -> AppError:
    return type(exc)(f"record {position}: {exc.message}")


def patch(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    record_id: str,
    body: JSONValue,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Change the fields that were sent.

    Returns:
        The record as JSON text.

    Raises:
        NotFound: no such entity or record.
        Invalid: the body breaks a rule.
        Conflict: a link or a unique index refuses it.
    """
    target = open_entity(
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="update",
        record_id=record_id,
        statement_timeout=statement_timeout,
    )
    stored = update(target, target.record_id(record_id), body)
    if stored is None:
        raise no_record(record_id)
    announce(uow, target)
    return stored


def update(target: Target, record_id: str, body: JSONValue) -> str | None:
    """Change a record of an opened entity; return it as JSON text, None if there is none."""
    values = records.for_update(target.entity, body)
    result = target.execute(
        target.statements.update(target.session, tuple(values)),
        [*values.values(), record_id],
        translate=lambda exc: violations.of_write(exc, target.entity, body),
        often=True,
    )
    stored: str | None = result.scalar_one_or_none()
    return stored


def delete(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    entity: str,
    record_id: str,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> None:
    """Delete a record; links to it act as their ``on_delete`` says.

    Raises:
        NotFound: no such entity or record.
        Conflict: another record refers to it.
    """
    target = open_entity(
        uow,
        actor,
        app_id=app_id,
        entity=entity,
        action="delete",
        record_id=record_id,
        statement_timeout=statement_timeout,
    )
    if not remove(target, target.record_id(record_id)):
        raise no_record(record_id)
    announce(uow, target)


def remove(target: Target, record_id: str) -> bool:
    """Delete a record of an opened entity; tell whether there was one."""
    statement = target.statements.delete(target.session)
    result = target.execute(statement, [record_id], translate=violations.of_delete, often=True)
    return bool(result.rowcount)
