"""Logins of the database that the platform makes for statements which are not its own.

Such a login owns nothing and is a member of one role. The password is derived from the master key,
so it is stored nowhere and every process knows it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import psycopg
import structlog
from psycopg import errors, sql
from sqlalchemy import Engine, make_url

from app.core.errors import Failed
from app.core.locks import NAMESPACE, AdvisoryLock
from config.settings import Settings

log = structlog.get_logger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]


class Login:
    """A login for one purpose.

    Attributes:
        name: the role's name.
        parameters: libpq's parameters of a connection.
    """

    def __init__(self, settings: Settings, engine: Engine, *, purpose: str, role: str) -> None:
        """Take the role the login is a member of."""
        self._engine = engine
        self._role = role
        url = make_url(settings.database.url)
        name = url.database or ""
        self.name = f"trellis_{purpose}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        password = hmac.new(
            bytes.fromhex(settings.auth.master_key), f"app-{purpose}:{name}".encode(), "sha256"
        ).hexdigest()
        self.parameters: dict[str, Any] = {  # Any: libpq's parameters
            **url.query,
            "host": url.host,
            "port": url.port,
            "dbname": name,
            "user": self.name,
            "password": password,
            "application_name": f"trellis-app-{purpose}",
            "connect_timeout": 2,
            "options": "-c timezone=UTC",
        }

    def ensure(self) -> None:
        """Make the login if it is missing or has another password.

        Raises:
            Failed: this server does not let us.
        """
        try:
            psycopg.connect(**self.parameters).close()
        except psycopg.OperationalError:
            log.info("app_login_made", login=self.name)
        else:
            return
        owner = self._engine.url
        parameters = {**self.parameters, "user": owner.username, "password": owner.password}
        try:
            with psycopg.connect(**parameters, autocommit=True) as connection:
                self._make(connection)
            psycopg.connect(**self.parameters).close()
        except psycopg.Error as exc:
            log.exception("app_login_failed", login=self.name)
            raise Failed("SQL is not available on this database server") from exc

    def _make(self, connection: Connection) -> None:
        # Nodes that start at the same time would update the same rows of the catalogue. The lock
        # goes with the connection.
        lock = (NAMESPACE, AdvisoryLock.APP_LOGIN)
        connection.execute("SELECT pg_advisory_lock(%s, %s)", lock)
        values = {
            "login": sql.Identifier(self.name),
            "password": sql.Literal(self.parameters["password"]),
            "role": sql.Identifier(self._role),
        }
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [self.name])
        verb = "ALTER" if known.fetchone() else "CREATE"
        statement = sql.SQL(f"{verb} ROLE {{login}} LOGIN PASSWORD {{password}}")
        try:
            connection.execute(statement.format(**values))
        except errors.DuplicateObject:
            log.info("app_login_exists", login=self.name)
        connection.execute(sql.SQL("GRANT {role} TO {login}").format(**values))
        # A temporary table would hide the app's own from the next caller of the connection.
        database = sql.Identifier(self.parameters["dbname"])
        connection.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
