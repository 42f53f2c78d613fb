"""The connection to Postgres and the base of every mapped class."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, event, make_url
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase

from config.settings import DatabaseSettings

SCHEMA = "trellis"
PING_AFTER_S = 5.0
LAST_USED = "trellis_last_used"

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Dialect(PGDialect_psycopg2):
    """psycopg2, going in and out of autocommit without a word to the server.

    SQLAlchemy tells psycopg2 the server's own isolation level when a connection leaves
    autocommit; psycopg2 then sets it on the server each time, which is two round trips.
    """

    supports_statement_cache = True

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:  # Any: the DBAPI's
        """Switch autocommit; any other level than the server's own is set as usual."""
        if level in {"AUTOCOMMIT", self.default_isolation_level}:
            dbapi_connection.autocommit = level == "AUTOCOMMIT"
        else:
            super().set_isolation_level(dbapi_connection, level)  # type: ignore[no-untyped-call]


registry.register("postgresql.trellis", __name__, Dialect.__name__)


class Base(DeclarativeBase):
    """Base of the platform's tables; all of them live in schema ``trellis``."""

    metadata = MetaData(schema=SCHEMA, naming_convention=NAMING)


def make_engine(database: DatabaseSettings, *, application_name: str) -> Engine:
    """Return an engine whose pool is bounded and whose connects fail fast.

    Args:
        database: where Postgres is and how many connections to keep.
        application_name: shown in ``pg_stat_activity``.
    """
    connect_s = max(1, round(database.connect_timeout.total_seconds()))
    engine = create_engine(
        make_url(database.url).set(drivername="postgresql+trellis"),
        pool_size=database.pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_use_lifo=True,
        connect_args={
            "connect_timeout": connect_s,
            "application_name": application_name,
            "options": "-c timezone=UTC",
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    _ping_idle_connections(engine)
    return engine


def _ping_idle_connections(engine: Engine) -> None:
    """Test a pooled connection that was idle for a while before it is used.

    SQLAlchemy's own pre-ping tests at every checkout, which is a fifth of the round trips of a
    short request. A connection that died within the last seconds fails one request with 503.
    """

    @event.listens_for(engine, "checkin")
    def note(_connection: Any, record: Any) -> None:  # Any: SQLAlchemy's untyped pool records
        record.info[LAST_USED] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def test(connection: Any, record: Any, _proxy: Any) -> None:  # Any: as above
        used = record.info.get(LAST_USED)
        if used is None or time.monotonic() - used < PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as exc:
            raise InvalidatePoolError from exc
