"""SQL of app code: a login that owns nothing, and for whom each of its connections works.

App code reaches its tables through row policies. They look at ``trellis.sql_identities``, which
only the platform's own role can write, so nothing that app code sends can widen its rights.
The login is a member of the role that holds the grants and is never the owner of anything:
``SET ROLE`` on the platform's connection could be undone by the very SQL it should confine.

psycopg 3, not 2: only the extended protocol takes ``$1`` and refuses a second statement.

Source: REST contract part 30, section 4.5; ADR 0003.
"""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import errors, pq
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolTimeout
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from app.core.actor import Actor, Source
from app.core.errors import AppError, Failed, Forbidden, Invalid, NotReady
from app.core.permissions import Permissions
from app.data.guards import APP_ROLE
from app.data.logins import Connection, Login
from app.data.models import SQLIdentity
from config.settings import Settings

MAX_ROWS: Final = 1000
STATEMENT_LIMIT: Final = "8s"
IDLE_LIMIT: Final = "30s"
POOL_SIZE: Final = 16
POOL_WAIT_S: Final = 8.0
IDLE_CONNECTION_S: Final = 60.0
ROLLED_BACK: Final = "transaction was rolled back after an earlier error"
REFUSED: Final = frozenset(
    [
        "CREATE",
        "DROP",
        "ALTER",
        "TRUNCATE",
        "GRANT",
        "REVOKE",
        "REINDEX",
        "VACUUM",
        "COPY",
        "SET",
        "RESET",
        "DO",
    ]
) | frozenset(
    # These end or split the transaction that a statement runs in, or reach other connections.
    [
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "PREPARE",
        "EXECUTE",
        "DEALLOCATE",
        "DISCARD",
        "LISTEN",
        "UNLISTEN",
        "NOTIFY",
        "LOCK",
        "CALL",
        "LOAD",
        "CLUSTER",
        "CHECKPOINT",
    ]
)
AS_TEXT: Final = [
    "numeric",
    "uuid",
    "date",
    "time",
    "timetz",
    "timestamp",
    "interval",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "money",
    "record",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "int4multirange",
    "int8multirange",
    "nummultirange",
    "datemultirange",
    "tsmultirange",
    "tstzmultirange",
]
JSON_OIDS: Final = frozenset({114, 3802})
CONTEXT: Final = """
SELECT set_config('search_path', $1, true), set_config('statement_timeout', $2, true),
       set_config('idle_in_transaction_session_timeout', $3, true),
       set_config('trellis.user_id', $4, true), set_config('trellis.is_delegated', $5, true),
       set_config('trellis.effective_perms', $6, true),
       set_config('trellis.hook_depth', $7, true)
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """For whom a statement runs.

    Attributes:
        permissions: keys of this app only, whatever else the user holds.
        hook_depth: how many hooks in a row led to the statement; no right depends on it.
    """

    app_id: str
    user_id: UUID | None
    delegator_id: UUID | None
    source: Source
    permissions: tuple[str, ...]
    hook_depth: int = field(default=0, compare=False)

    @classmethod
    def of(cls, app_id: str, actor: Actor | None, source: Source) -> Identity:
        """Return the identity of a call; nobody has no permissions."""
        if actor is None:
            return cls(app_id, None, None, source, ())
        own = actor.permissions.intersect(Permissions.of({f"app:{app_id}:*"}))
        return cls(
            app_id,
            actor.user_id,
            actor.delegator_id,
            source,
            tuple(own.sorted()),
            actor.hook_depth,
        )

    def settings(self) -> tuple[str, ...]:
        """Return the values of ``CONTEXT``."""
        return (
            f'"{self.app_id}", public',
            STATEMENT_LIMIT,
            IDLE_LIMIT,
            "" if self.user_id is None else str(self.user_id),
            "0" if self.delegator_id is None else "1",
            ",".join(self.permissions),
            str(self.hook_depth or ""),
        )


Answer = dict[str, Any]  # Any: JSON values


class AppDatabase:
    """Connections of app code, made when first needed. Thread-safe."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._engine = engine
        self._login = Login(settings, engine, purpose="sql", role=APP_ROLE)
        self._opening = threading.Lock()
        self._pool: ConnectionPool[Connection] | None = None
        self._identities: dict[int, Identity] = {}

    def take(self) -> Connection:
        """Return a connection for one statement or transaction; give it back afterwards.

        Raises:
            NotReady: too many are in use.
            Failed: this server offers no SQL to app code.
        """
        try:
            return self._opened().getconn()
        except PoolTimeout as exc:
            raise NotReady("too many concurrent statements; retry") from exc

    def give_back(self, connection: Connection) -> None:
        """Return a connection; whatever was open in it is rolled back."""
        if self._pool is not None:
            self._pool.putconn(connection)

    def close(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            self._pool.close(timeout=2.0)

    def become(self, connection: Connection, identity: Identity) -> None:
        """Have the connection's statements work for somebody, with fresh limits."""
        pid = connection.info.backend_pid
        if self._identities.get(pid) != identity:
            self._write(pid, identity)
            self._identities[pid] = identity
        psycopg.RawCursor(connection).execute(CONTEXT, identity.settings())

    def _write(self, pid: int, identity: Identity) -> None:
        values = {
            "app_id": identity.app_id,
            "user_id": identity.user_id,
            "delegator_id": identity.delegator_id,
            "source": identity.source.value,
            "permissions": list(identity.permissions),
        }
        row = insert(SQLIdentity).values(pid=pid, **values)
        with self._engine.begin() as owner:
            owner.execute(row.on_conflict_do_update(index_elements=[SQLIdentity.pid], set_=values))

    def _opened(self) -> ConnectionPool[Connection]:
        if self._pool is None:
            with self._opening:
                if self._pool is None:
                    self._login.ensure()
                    self._pool = self._make_pool()
        return self._pool

    def _make_pool(self) -> ConnectionPool[Connection]:
        return ConnectionPool(
            kwargs=self._login.parameters,
            connection_class=psycopg.Connection[tuple[Any, ...]],
            min_size=0,
            max_size=POOL_SIZE,
            timeout=POOL_WAIT_S,
            max_idle=IDLE_CONNECTION_S,
            configure=self._configure,
            check=ConnectionPool.check_connection,
            name="app-sql",
            open=True,
        )

    def _configure(self, connection: Connection) -> None:
        # A new connection may have the process id of an old one that worked for somebody else.
        self._identities.pop(connection.info.backend_pid, None)
        read_as_json(connection)


def read_as_json(connection: Connection) -> None:
    """Have a connection give values that JSON can hold; the exact ones as texts."""
    for name in AS_TEXT:
        connection.adapters.register_loader(name, TextLoader)
    connection.adapters.register_loader("timestamptz", _ZonedLoader)


class _ZonedLoader(TextLoader):
    """Reads a timestamp with time zone as RFC 3339; the connection's zone is UTC."""

    def load(self, data: Any) -> str:  # Any: psycopg's buffer
        """Return ``2026-01-02T03:04:05.6Z``; infinity stays as it is."""
        text = str(super().load(data))
        return text.replace(" ", "T", 1).removesuffix("+00") + "Z" if " " in text else text


def refuse(statement: str) -> None:
    """Raise ``Forbidden`` for a statement that is refused up front.

    A convenience with a clear text: the login is the real barrier.
    """
    words = statement.lstrip(" \t\r\n;(").split(None, 1)
    word = "".join(c for c in (words[0] if words else "") if c.isalpha()).upper()
    if word in REFUSED:
        raise Forbidden(f"statement not allowed: {word}")


def execute(connection: Connection, statement: str, params: Sequence[Any]) -> Answer:
    """Run one statement in the connection's open transaction.

    Args:
        connection: from ``AppDatabase.take``, after ``become``.
        statement: SQL with ``$1``...
        params: JSON values, converted to the types that Postgres infers.

    Returns:
        ``columns``, ``rows``, ``row_count``.

    Raises:
        AppError: the database's own message, or a broken limit.
    """
    if "\0" in statement:
        raise Invalid("text must not contain the character U+0000")
    try:
        columns, types = describe(connection, statement)
        values = _texts(params, types)
        if columns:
            rows = _fetch(connection, statement, values)
            count = len(rows)
        else:
            done = psycopg.RawCursor(connection).execute(statement.encode(), values)
            rows, count = [], max(0, done.rowcount)
    except psycopg.Error as exc:
        raise database_message(exc) from exc
    if connection.info.transaction_status is pq.TransactionStatus.IDLE:
        raise Forbidden("statement not allowed: it ends the transaction")
    return {"columns": columns, "rows": rows, "row_count": count}


def database_message(exc: psycopg.Error) -> AppError:
    """Return what the app may read about a database error."""
    if isinstance(exc, errors.QueryCanceled):
        return Failed("statement timed out")
    text = exc.diag.message_primary
    if text is None:
        return NotReady("database not available")
    return Failed(text)


def describe(connection: Connection, statement: str) -> tuple[list[str], list[int]]:
    """Return the names of the result's columns and the types of the parameters."""
    raw = connection.pgconn
    for result in (
        raw.prepare(b"", statement.encode()),
        raw.describe_prepared(b""),
    ):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
    names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
    return names, [result.param_type(i) for i in range(result.nparams)]


def _texts(params: Sequence[Any], types: list[int]) -> list[str | None]:
    """Return parameters as the texts that Postgres reads."""
    if len(params) != len(types):
        raise Invalid(f"the statement takes {len(types)} parameters, not {len(params)}")
    return [_text(value, oid) for value, oid in zip(params, types, strict=True)]


def _text(value: Any, oid: int) -> str | None:  # Any: a JSON value
    if oid in JSON_OIDS:
        return None if value is None else json.dumps(value)
    if value is None or isinstance(value, str):
        if value is not None and "\0" in value:
            raise Invalid("text must not contain the character U+0000")
        return value
    if isinstance(value, list):
        return _array(value)
    if isinstance(value, dict):
        return json.dumps(value)
    return "true" if value is True else "false" if value is False else str(value)


def _array(values: list[Any]) -> str:  # Any: JSON values
    parts = []
    for value in values:
        if isinstance(value, list):
            parts.append(_array(value))
        elif value is None:
            parts.append("NULL")
        else:
            text = (_text(value, 0) or "").replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{text}"')
    return "{" + ",".join(parts) + "}"


def _fetch(
    connection: Connection, statement: str, values: list[str | None]
) -> list[list[Any]]:  # Any: JSON values
    """Return at most 1000 rows, never holding more than one beyond that.

    Raises:
        Failed: there are more.
    """
    rows: list[list[Any]] = []
    stream = psycopg.RawCursor(connection).stream(statement.encode(), values)
    for row in stream:
        if len(rows) == MAX_ROWS:
            # Closing the stream cancels the rest of the query.
            stream.close()  # type: ignore[attr-defined]
            raise Failed(f"query returned more than {MAX_ROWS} rows; add LIMIT")
        rows.append([plain(value) for value in row])
    return rows


def plain(value: Any) -> Any:  # Any: psycopg's values, then JSON values
    """Return a value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
