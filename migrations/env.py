"""Alembic environment: one schema, one lock, bounded waits."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from app.core.db import SCHEMA
from app.models import Base
from config.settings import DatabaseSettings, DatabaseURL

MIGRATION_LOCK = 0x7472656C


def run() -> None:
    """Upgrade or downgrade under a session lock, so that several releases cannot interleave."""
    url = context.config.get_main_option("sqlalchemy.url") or DatabaseURL().deserialize(
        os.environ["DATABASE_URL"]  # noqa: TID251 - the alembic command line is a composition root
    )
    # A login role called like our schema would make it the default schema, which Alembic's
    # comparison then leaves out.
    engine = create_engine(
        DatabaseSettings(url=url).url,
        poolclass=NullPool,
        connect_args={"options": "-c search_path=public"},
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.execute(text("SET statement_timeout = '300s'"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            version_table_schema=SCHEMA,
            include_schemas=True,
            include_name=_ours,
            compare_server_default=False,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "schema" or name == SCHEMA


run()
