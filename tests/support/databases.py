"""One migrated template, cloned for every test that needs a database."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from config.settings import DatabaseURL
from migrations.runner import upgrade

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 1024**3


def memory_directory() -> Path | None:
    """Return a directory that is kept in memory, if there is one with room for test servers.

    A database is some 400 files; on a disk making and removing them is most of a test.
    """
    try:
        info = os.statvfs(MEMORY)
    except OSError:
        return None
    usable = info.f_frsize * info.f_bavail > ENOUGH_BYTES and not info.f_flag & os.ST_NOEXEC
    return MEMORY if usable and psutil.virtual_memory().available > ENOUGH_BYTES else None


@dataclass(frozen=True)
class Databases:
    """Hands out databases of one server."""

    engine: Engine
    template: str

    @classmethod
    @contextmanager
    def on(cls, server_url: str) -> Iterator[Databases]:
        """Migrate a fresh template database; drop it at the end."""
        url = make_url(DatabaseURL().deserialize(server_url))
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        databases = cls(engine, f"test_{secrets.token_hex(4)}_template")
        databases._run(f'CREATE DATABASE "{databases.template}"')
        try:
            upgrade(databases.url(databases.template))
            yield databases
        finally:
            databases._drop(databases.template)
            engine.dispose()

    @contextmanager
    def clone(self, of: str | None = None) -> Iterator[str]:
        """Give the URL of a new migrated database; drop it at the end.

        Args:
            of: URL of a database nobody is connected to; else the empty template.
        """
        name = f"test_{secrets.token_hex(6)}"
        template = make_url(of).database if of else self.template
        # Copies the files instead of logging each page: half the work without a disk.
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Give the URL of a new database without our schema; drop it at the end."""
        name = f"test_{secrets.token_hex(6)}"
        self._run(f'CREATE DATABASE "{name}"')
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    def url(self, name: str) -> str:
        """Return the connection URL of a database on this server."""
        return self.engine.url.set(database=name).render_as_string(hide_password=False)

    def _drop(self, name: str) -> None:
        try:
            self._run(f'DROP DATABASE "{name}" WITH (FORCE)')
        except ProgrammingError:
            # FORCE is refused while autovacuum, which is a superuser's, is in there; without it
            # Postgres asks autovacuum to leave and waits.
            self._run(f'DROP DATABASE "{name}"')

    def _run(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(text(statement))
