"""The database browser: schemas, tables, and SELECTs of administrators.

A SELECT runs in a read-only transaction on a connection of its own, which is closed afterwards, so
that nothing it sets outlives it. It may read what the platform's role may.

Source: REST contract part 20, section 13.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final

import psycopg
from psycopg import errors
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.errors import Failed, Invalid, NotReady
from app.core.platform import Platform
from app.data.app_sql import describe, plain, read_as_json
from app.data.execution import query
from app.data.logins import Connection

MAX_ROWS: Final = 500
LIMIT_S: Final = 120
AT_ONCE: Final = 4
SYSTEM: Final = {"trellis", "information_schema"}
MAY_QUERY: Final = "admin:db.query"
ALLOWED: Final = re.compile(r"\s*(SELECT|WITH|EXPLAIN)\b", re.IGNORECASE)
TABLES: Final = """
SELECT coalesce(json_agg(json_build_object('table_name', t.table_name, 'columns', t.columns)
                         ORDER BY t.table_name), '[]')::text
FROM (SELECT c.relname AS table_name, (
          SELECT coalesce(json_agg(json_build_object(
                     'column_name', i.column_name, 'data_type', i.data_type,
                     'is_nullable', i.is_nullable, 'column_default', i.column_default,
                     'ordinal_position', i.ordinal_position) ORDER BY i.ordinal_position), '[]')
          FROM information_schema.columns i
          WHERE i.table_schema = n.nspname AND i.table_name = c.relname) AS columns
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = %s AND c.relkind IN ('r', 'p')) t
"""
SCHEMAS: Final = """
SELECT coalesce(json_agg(json_build_object('schema_name', s.name, 'table_count', s.tables)
                         ORDER BY s.name <> 'trellis', s.name <> 'public', s.name), '[]')::text
FROM (SELECT n.nspname AS name, count(c.oid) AS tables
      FROM pg_namespace n
      LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
      WHERE n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
        AND (n.nspname <> 'trellis' OR %s)
      GROUP BY n.nspname) s
"""

_room = threading.BoundedSemaphore(AT_ONCE)


def schemas(session: Session, actor: Actor) -> str:
    """Return the schemas an actor may see, as a JSON array."""
    return str(query(session, SCHEMAS, [actor.can(MAY_QUERY)]).scalar_one())


def tables(session: Session, actor: Actor, schema: str) -> str:
    """Return the tables of a schema with their columns, as a JSON array.

    Raises:
        Forbidden: it is one of the system's.
    """
    if schema in SYSTEM or schema.startswith("pg_"):
        actor.require(MAY_QUERY)
    return str(query(session, TABLES, [schema.replace("\0", "")]).scalar_one())


def select(
    platform: Platform, *, statement: str, schema: str | None
) -> dict[str, Any]:  # Any: JSON values
    """Run one SELECT and return its first 500 rows.

    Args:
        platform: the process's platform.
        statement: SQL without parameters.
        schema: comes first in the search path, before ``public``.

    Raises:
        Invalid: no SELECT, or Postgres refuses it.
        Failed: it took longer than 120 s.
        NotReady: too many at once, or Postgres is away.
    """
    if not statement.strip():
        raise Invalid("sql is empty")
    if ALLOWED.match(statement) is None:
        raise Invalid("only SELECT statements are accepted")
    if "\0" in statement or "\0" in (schema or ""):
        raise Invalid("text must not contain the character U+0000")
    if not _room.acquire(blocking=False):
        raise NotReady("too many concurrent queries; retry")
    try:
        with psycopg.connect(**_parameters(platform)) as connection:
            connection.read_only = True
            read_as_json(connection)
            return _run(connection, statement, schema)
    except errors.QueryCanceled as exc:
        raise Failed("statement timed out") from exc
    except psycopg.Error as exc:
        if exc.diag.message_primary is None:
            raise NotReady("database not available") from exc
        raise Invalid(exc.diag.message_primary) from exc
    finally:
        _room.release()


def _parameters(platform: Platform) -> dict[str, Any]:  # Any: libpq's parameters
    url = platform.engine.url
    return {
        **url.query,
        "host": url.host,
        "port": url.port,
        "dbname": url.database,
        "user": url.username,
        "password": url.password,
        "application_name": "trellis-browser",
        "connect_timeout": 2,
        "options": "-c timezone=UTC",
    }


def _run(
    connection: Connection, statement: str, schema: str | None
) -> dict[str, Any]:  # Any: JSON values
    path = "public" if schema is None else '"{}", public'.format(schema.replace('"', '""'))
    connection.execute(
        "SELECT set_config('search_path', %s, true), set_config('statement_timeout', %s, true)",
        (path, f"{LIMIT_S}s"),
    )
    columns, _ = describe(connection, statement)
    rows = []
    stream = psycopg.RawCursor(connection).stream(statement.encode(), [])
    for row in stream:
        rows.append([plain(value) for value in row])
        if len(rows) == MAX_ROWS:
            stream.close()  # type: ignore[attr-defined]
            break
    return {"columns": columns, "rows": rows, "row_count": len(rows)}
