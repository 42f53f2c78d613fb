"""Running composed SQL: quoted identifiers and bound values, never client text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql
from sqlalchemy import CursorResult
from sqlalchemy.orm import Session

from app.core.statements import DirectSession, Rows, fetch

Prelude = tuple[str, Sequence[Any]]  # SQL text, and its values for psycopg2 to adapt
NO_PRELUDE: Prelude = ("", ())


def render(session: Session, statement: sql.Composable) -> str:
    """Return the text of a statement, quoted for the session's connection."""
    if isinstance(session, DirectSession):
        with session.driver() as held:
            return str(statement.as_string(held.connection))
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
) -> Rows:
    """Execute a rendered statement with positional parameters.

    Args:
        session: whose connection to use.
        text: the statement.
        parameters: its values.
        prelude: statements that travel before it in the same message.
        often: see ``app.core.statements.prepared``.
    """
    before, first = prelude
    return fetch(session, text, (*first, *parameters), before=before, often=often)
