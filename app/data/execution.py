"""Running composed SQL: quoted identifiers and bound values, never client text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from psycopg2 import sql
from sqlalchemy import CursorResult
from sqlalchemy.orm import Session

Prelude = tuple[str, Sequence[Any]]  # SQL text, and its values for psycopg2 to adapt
NO_PRELUDE: Prelude = ("", ())
PREPARED = "trellis.prepared"
MAX_PREPARED = 200
NAMES = count(1)
UNSURE = "?"
SEEN, TO_PREPARE = "seen", "to prepare"


def render(session: Session, statement: sql.Composable) -> str:
    """Return the text of a statement, quoted for the session's connection."""
    driver: Any = session.connection().connection.driver_connection  # Any: psycopg2's connection
    return str(statement.as_string(driver))


def run(session: Session, statement: sql.Composable) -> CursorResult[Any]:  # Any: SQL values
    """Execute a statement that has no parameters (a ``%`` in it means itself)."""
    text = render(session, statement)
    options = {"no_parameters": True}
    return session.connection().exec_driver_sql(text, execution_options=options)


def query(
    session: Session,
    text: str,
    parameters: Sequence[Any],  # Any: values psycopg2 adapts
    *,
    prelude: Prelude = NO_PRELUDE,
    often: bool = False,
) -> CursorResult[Any]:  # Any: SQL values
    """Execute a rendered statement with positional parameters.

    Args:
        session: whose connection to use.
        text: the statement.
        parameters: its values.
        prelude: statements that travel before it in the same message.
        often: prepare the statement on this connection when it comes for the second time:
            Postgres then parses it once and may keep its plan.
    """
    connection = session.connection()
    before, values = prelude
    if not often:
        return connection.exec_driver_sql(before + text, (*values, *parameters))
    known: dict[str, str] = connection.info.setdefault(PREPARED, {})
    if UNSURE in known or len(known) >= MAX_PREPARED:
        before = "DEALLOCATE ALL;" + before
        known.clear()
    name = known.setdefault(text, SEEN)
    if name is SEEN:
        known[text] = TO_PREPARE
        return connection.exec_driver_sql(before + text, (*values, *parameters))
    if name is TO_PREPARE:
        name = f"trellis_{next(NAMES)}"
        before = f"PREPARE {name} AS {_numbered(text)};{before}"
        # If the message fails, nobody knows whether the statement is prepared.
        known[UNSURE] = name
    result = connection.exec_driver_sql(
        before + _call(name, len(parameters)), (*values, *parameters)
    )
    known.pop(UNSURE, None)
    known[text] = name
    return result


def _call(name: str, arguments: int) -> str:
    places = ", ".join(["%s"] * arguments)
    return f"EXECUTE {name} ({places})" if arguments else f"EXECUTE {name}"


def _numbered(text: str) -> str:
    """Return a statement with ``$1`` for its first ``%s``, and so on."""
    first, *others = text.split("%s")
    return first + "".join(f"${place}{part}" for place, part in enumerate(others, 1))
