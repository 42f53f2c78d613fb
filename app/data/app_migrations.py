"""Migrations that an app ships with its backend.

Source: REST contract part 20, section 4.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from psycopg2 import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.errors import Invalid
from app.core.locks import lock_app
from app.core.uow import UnitOfWork
from app.data import sync
from app.data.execution import render, run

TABLE = "schema_migrations"


def run_app_migrations(
    units: Callable[[], AbstractContextManager[UnitOfWork]], app_id: str, files: Mapping[str, str]
) -> list[str]:
    """Run the files that are not recorded yet, in order of their names.

    Each file runs with its record in a transaction of its own, as the platform's role. Idempotent:
    a recorded file is never run again, whatever it says now.

    Args:
        units: opens units of work.
        app_id: the app, which is the first schema of the search path.
        files: names and SQL.

    Returns:
        The names that were run now.

    Raises:
        Invalid: a file failed; those before it stay applied.

    Locks: the app's install lock, from beginning to end.
    """
    applied: list[str] = []
    if not files:
        return applied
    with units() as guard:
        lock_app(guard.session, app_id)
        with units() as uow:
            done = _prepare(uow.session, app_id)
        for name in sorted(files.keys() - done):
            with units() as uow:
                _run_file(uow.session, app_id, name, files[name])
            applied.append(name)
    return applied


def _prepare(session: Session, app_id: str) -> set[str]:
    sync.ensure_schema(session, app_id)
    table = sql.Identifier(app_id, TABLE)
    run(
        session,
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {}"
            " (filename text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        ).format(table),
    )
    names = run(session, sql.SQL("SELECT filename FROM {}").format(table)).scalars()
    return set(names)


def _run_file(session: Session, app_id: str, name: str, script: str) -> None:
    path = sql.SQL("SET LOCAL search_path = {}, public;\n").format(sql.Identifier(app_id))
    record = sql.SQL("INSERT INTO {} (filename) VALUES ({})").format(
        sql.Identifier(app_id, TABLE), sql.Literal(name)
    )
    try:
        session.connection().exec_driver_sql(
            render(session, path) + script, execution_options={"no_parameters": True}
        )
        run(session, record)
    except (DBAPIError, ValueError) as exc:
        diagnosis = getattr(getattr(exc, "orig", None), "diag", None)
        message = getattr(diagnosis, "message_primary", None) or "cannot be run"
        raise Invalid(f"migration '{name}': {message}") from exc
