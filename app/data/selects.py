"""SELECTs of administrators in the database browser.

Each runs in a read-only transaction on a connection of its own, which is closed afterwards, so that
nothing it sets outlives it. It may read what the platform's role may.

Source: REST contract part 20, section 13.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final

import psycopg
from psycopg import errors

from app.core.errors import Failed, Invalid, NotReady
from app.core.platform import Platform
from app.data.app_sql import describe, plain, read_as_json
from app.data.logins import Connection

MAX_ROWS: Final = 500
LIMIT_S: Final = 120
AT_ONCE: Final = 4
ALLOWED: Final = re.compile(r"\s*(SELECT|WITH|EXPLAIN)\b", re.IGNORECASE)

_room = threading.BoundedSemaphore(AT_ONCE)


def run(
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
            return _answer(connection, statement, schema)
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


def _answer(
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
