"""Run migrations from Python: the CLI and the tests use the same path."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for one database, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring a database to a revision. Idempotent; concurrent calls wait for each other.

    Args:
        database_url: a ``postgresql+psycopg2://`` URL.
        revision: target revision.
    """
    command.upgrade(alembic_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take a database back to a revision (``base``: nothing of ours is left but the schema)."""
    command.downgrade(alembic_config(database_url), revision)
