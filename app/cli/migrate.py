"""Bring the database schema to the version of this release."""

from __future__ import annotations

import re
from pathlib import Path

from app.cli.errors import CommandError

SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def migrate(database_url: str) -> str:
    """Run all outstanding migrations; one lock keeps several callers apart.

    Returns:
        The revision the schema has now.

    Raises:
        CommandError: the database cannot be reached or refuses.
    """
    from alembic import command
    from alembic.util import CommandError as AlembicError
    from sqlalchemy.exc import DBAPIError

    try:
        current, newest = revisions(database_url)
        if current != newest:
            command.upgrade(_config(database_url), "head")
    except DBAPIError as exc:
        reason = str(exc.orig).strip().splitlines()[0] if exc.orig else "no answer"
        raise CommandError(f"DATABASE_URL: {reason}") from exc
    except AlembicError as exc:
        raise CommandError(f"The migrations cannot be run: {exc}") from exc
    return newest


def revisions(database_url: str) -> tuple[str, str]:
    """Return the schema's revision (empty when there is none) and the release's newest."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import NullPool, create_engine

    from app.core.db import SCHEMA

    engine = create_engine(_driver_url(database_url), poolclass=NullPool)
    with engine.connect() as connection:
        options = {"version_table_schema": SCHEMA}
        current = MigrationContext.configure(connection, opts=options).get_current_revision()
    head = ScriptDirectory.from_config(_config(database_url)).get_current_head()
    return current or "", head or ""


def _config(database_url: str):  # type: ignore[no-untyped-def]
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", _driver_url(database_url).replace("%", "%%"))
    return config


def _driver_url(database_url: str) -> str:
    """Name the driver, because SQLAlchemy's default is another one than ours."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", database_url)
