"""The registry of entities, and the settings of a data transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.data.execution import Prelude, query
from app.data.models import DataContract

Public = Mapping[str, Sequence[str]]

# Run before every statement on records, so as plain text: SQLAlchemy's compiler would cost more
# than Postgres does.
NAMES = (
    "statement_timeout",
    "trellis.user_id",
    "trellis.delegator_id",
    "trellis.source",
    "trellis.hook_depth",
)
SETTINGS = ", ".join(f"set_config('{name}', %s, true)" for name in NAMES) + " "
SET_CONTEXT = "SELECT " + SETTINGS
# The same, and what is remembered checked, in front of a statement that is a transaction by itself.
EXPECT = "SELECT trellis.expect_v1(%s, %s, %s::uuid, %s);"
READ_BY_MEMORY = "SET LOCAL statement_timeout = %s;" + EXPECT
WRITE_BY_MEMORY = "".join(f"SET LOCAL {name} = %s;" for name in NAMES) + EXPECT
OPEN = (
    "SELECT c.stamp, "
    + SETTINGS
    + "FROM (SELECT) one LEFT JOIN trellis.data_contracts c ON c.app_id = %s"
)


def open_app(session: Session, app_id: str, actor: Actor | None, timeout_ms: int) -> UUID | None:
    """Set who acts for the rest of the transaction; return the app's stamp.

    One round trip does both. The stamp is None when the app has no data contract.
    """
    row: Any = query(session, OPEN, [*context(actor, timeout_ms), app_id]).one()  # Any: SQL values
    return None if row[0] is None else UUID(str(row[0]))


def set_context(session: Session, actor: Actor | None, timeout_ms: int) -> None:
    """Set who acts for the rest of the transaction."""
    query(session, SET_CONTEXT, context(actor, timeout_ms))


def mark_hooked(session: Session, app_id: str, *, hooked: bool) -> None:
    """Remember whether any hook watches an app; a change moves the stamp."""
    session.execute(
        update(DataContract)
        .where(DataContract.app_id == app_id, DataContract.hooked != hooked)
        .values(hooked=hooked, stamp=uuid4())
    )


def by_memory(actor: Actor, timeout_ms: int, *, app_id: str, stamp: UUID, writes: bool) -> Prelude:
    """Return what goes before a statement that relies on a remembered contract and authority."""
    expected = [app_id, str(stamp), str(actor.user_id), str(actor.stamp)]
    if writes:
        return WRITE_BY_MEMORY, [*context(actor, timeout_ms), *expected]
    return READ_BY_MEMORY, [str(timeout_ms), *expected]


def context(actor: Actor | None, timeout_ms: int) -> list[str]:
    """Return the values of ``SETTINGS``, which the triggers read."""
    if actor is None:
        return [str(timeout_ms), "", "", "", ""]
    return [
        str(timeout_ms),
        str(actor.user_id or ""),
        str(actor.delegator_id or ""),
        actor.source.value,
        str(actor.hook_depth or ""),
    ]


Stored = tuple[UUID, list[dict[str, Any]], Public, bool]  # Any: JSON values


def contract(session: Session, app_id: str) -> Stored | None:
    """Return stamp, entities, public actions and the hooked flag of an app."""
    row = session.execute(
        select(
            DataContract.stamp, DataContract.entities, DataContract.public, DataContract.hooked
        ).where(DataContract.app_id == app_id)
    ).one_or_none()
    return None if row is None else (row[0], row[1], row[2], row[3])


def stamps(session: Session) -> dict[str, UUID]:
    """Return the stamp of every app."""
    rows = session.execute(select(DataContract.app_id, DataContract.stamp))
    return {app_id: stamp for app_id, stamp in rows}  # noqa: C416 - rows are not plain tuples to mypy


def store(session: Session, app_id: str, entities: list[dict[str, Any]], public: Public) -> None:
    """Insert or replace the entities of an app and their public actions."""
    values = {"entities": entities, "public": public, "stamp": uuid4(), "updated_at": func.now()}
    session.execute(
        insert(DataContract)
        .values(app_id=app_id, **values)
        .on_conflict_do_update(index_elements=[DataContract.app_id], set_=values)
    )


def remove(session: Session, app_id: str) -> None:
    """Forget the entities of an app."""
    session.execute(delete(DataContract).where(DataContract.app_id == app_id))
