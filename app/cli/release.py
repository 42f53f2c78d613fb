"""The Procfile's release step, left out when there is provably nothing to migrate.

Starting an interpreter with the whole schema costs most of a second, which an ordinary
restart need not pay. What counts is what the database itself says: the note below only tells
which revision the present migration files end in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import psycopg2
from psycopg2 import sql

from app.cli.migrate import SCRIPTS

COMMAND = "trellis migrate"
SCHEMA = "trellis"


class ReleaseNote:
    """Remembers the newest revision of a set of migration files."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / "release.json"

    def nothing_to_do(self, command: str, database_url: str) -> bool:
        """Say whether the release step may be left out."""
        if command != COMMAND:
            return False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._file.read_text(encoding="utf-8"))
            if note["files"] == _digest(SCRIPTS):
                return bool(note["revision"]) and note["revision"] == _revision(database_url)
        return False

    def write(self, command: str, database_url: str) -> None:
        """Note that the files were just migrated to their newest revision."""
        if command == COMMAND:
            note = {"files": _digest(SCRIPTS), "revision": _revision(database_url)}
            self._file.write_text(json.dumps(note), encoding="utf-8")


def _digest(scripts: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(scripts.rglob("*")):
        if file.is_file() and file.suffix in {".py", ".sql"}:
            digest.update(f"{file.relative_to(scripts)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _revision(database_url: str) -> str:
    """Return the revision a database is at; empty when it has none or cannot be asked."""
    address = database_url.replace("postgresql+psycopg2://", "postgresql://")
    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(SCHEMA, "alembic_version"))
    try:
        connection = psycopg2.connect(address, connect_timeout=5)
    except psycopg2.Error:
        return ""
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            rows = cursor.fetchall()
    except psycopg2.Error:
        return ""
    finally:
        connection.close()
    return str(rows[0][0]) if len(rows) == 1 else ""
