"""The connection to Postgres and the base of every mapped class."""

from __future__ import annotations

from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase

from config.settings import DatabaseSettings

SCHEMA = "trellis"

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


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
    return create_engine(
        database.url,
        pool_size=database.pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
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
