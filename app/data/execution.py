"""Running composed SQL: quoted identifiers and bound values, never client text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql
from sqlalchemy import CursorResult
from sqlalchemy.orm import Session


def render(session: Session, statement: sql.Composable) -> str:
    """Return the text of a statement, quoted for the session's connection."""
    return statement.as_string(session.connection().connection.driver_connection)


def run(session: Session, statement: sql.Composable) -> CursorResult[Any]:  # Any: SQL values
    """Execute a statement that has no parameters (a ``%`` in it means itself)."""
    connection = session.connection()
    text = statement.as_string(connection.connection.driver_connection)
    return connection.exec_driver_sql(text, execution_options={"no_parameters": True})


def query(
    session: Session,
    text: str,
    parameters: Sequence[Any],  # Any: values psycopg2 adapts
) -> CursorResult[Any]:  # Any: SQL values
    """Execute a rendered statement with positional parameters."""
    return session.connection().exec_driver_sql(text, tuple(parameters))
