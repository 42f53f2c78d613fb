"""The beat that leads: writes down due ticks the moment they are due.

Leadership is a session advisory lock; every tick is written through the connection that holds
it, so a beat that lost its connection cannot tick any more, and another one leads within
``TICK_LEADER_RETRY``. NOTIFY on the same connection tells of changed crons.

Source: REST contract part 30, section 13.2.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, create_engine, pool, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.core.clock import Clock, utc_now
from app.core.locks import NAMESPACE, AdvisoryLock
from app.core.schedule import MINUTE, floor_minute
from app.crons import repository
from app.crons.ticker import Ticker

log = structlog.get_logger(__name__)

RELOAD_S = 30.0
LONGEST_WAIT_S = 0.5
# Crons are not reloaded in the last moments before a tick, which would be late by it.
QUIET_S = 1.0


class Leader:
    """One beat process's claim to lead. Not thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        retry_s: float,
        fire: Callable[[int], None],
        clock: Clock = utc_now,
    ) -> None:
        """Prepare to lead.

        Args:
            engine: names the database; the connection is a private one beside its pool.
            retry_s: seconds between two attempts to lead.
            fire: told how many ticks were written down; must return at once.
        """
        # A pooled connection could outlive its leadership with the lock still in it.
        self._engine = create_engine(
            engine.url,
            poolclass=pool.NullPool,
            connect_args={
                "connect_timeout": 2,
                "application_name": "trellis-beat-leader",
                "options": "-c timezone=UTC -c statement_timeout=20s",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )
        self._retry_s = retry_s
        self._fire = fire
        self._clock = clock
        self._ticker = Ticker()
        self._connection: Connection | None = None
        self._handled: datetime | None = None
        self._loaded_at = float("-inf")
        self._changed = False
        self._tried_at = float("-inf")

    @property
    def leading(self) -> bool:
        """Whether this process holds the lock, as far as it knows."""
        return self._connection is not None

    def step(self) -> None:
        """Do what is due, then wait until something is, at most half a second.

        A database that is away ends leadership and is never raised.
        """
        try:
            if self._connection is None and not self._try_to_lead():
                self._pause(LONGEST_WAIT_S)
                return
            self._reload_if_needed()
            self._tick()
            self._wait()
        except (OperationalError, InterfaceError, DBAPIError, OSError) as exc:
            log.warning("scheduler_lost_database", reason=type(exc).__name__)
            self.resign()
            self._pause(LONGEST_WAIT_S)

    def resign(self) -> None:
        """Give up the lock; another beat may lead at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
            finally:
                connection.close()

    def _try_to_lead(self) -> bool:
        if time.monotonic() - self._tried_at < self._retry_s:
            return False
        self._tried_at = time.monotonic()
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        values = {"namespace": NAMESPACE, "name": int(AdvisoryLock.SCHEDULER)}
        query = text("SELECT pg_try_advisory_lock(:namespace, :name)")
        if not connection.execute(query, values).scalar_one():
            connection.close()
            return False
        self._connection = connection
        connection.execute(text(f"LISTEN {repository.CHANGED}"))
        with Session(connection) as session:
            self._handled = repository.last_minute(session, otherwise=floor_minute(self._clock()))
        self._ticker = Ticker()
        self._load()
        log.info("scheduler_leads")
        return True

    def _reload_if_needed(self) -> None:
        if self._changed:
            self._load()
        elif time.monotonic() - self._loaded_at > RELOAD_S and self._seconds_left() > QUIET_S:
            self._load()

    def _load(self) -> None:
        assert self._connection is not None and self._handled is not None  # noqa: S101
        self._changed = False
        self._loaded_at = time.monotonic()
        with Session(self._connection) as session:
            self._ticker.load(repository.plans(session), handled=self._handled)

    def _tick(self) -> None:
        assert self._connection is not None and self._handled is not None  # noqa: S101
        now = self._clock()
        minute = floor_minute(now)
        ticks = self._ticker.take(now=now, handled=self._handled)
        if not ticks and minute <= self._handled:
            return
        with Session(self._connection) as session:
            fired = repository.write_ticks(session, ticks, minute=max(minute, self._handled))
        self._handled = max(minute, self._handled)
        if fired:
            self._fire(fired)

    def _seconds_left(self) -> float:
        """Return the seconds until the next tick or the end of the minute."""
        assert self._handled is not None  # noqa: S101
        now = self._clock()
        next_minute = max(floor_minute(now), self._handled) + MINUTE
        due = self._ticker.next_due()
        end = next_minute if due is None else min(due, next_minute)
        return (end - now).total_seconds()

    def _wait(self) -> None:
        """Sleep until something is due, a cron changes or the connection breaks."""
        assert self._connection is not None  # noqa: S101
        raw: Any = self._connection.connection.driver_connection  # Any: psycopg2's connection
        timeout = max(0.0, min(self._seconds_left(), LONGEST_WAIT_S))
        if select.select([raw], [], [], timeout)[0]:
            raw.poll()
        if raw.notifies:
            raw.notifies.clear()
            self._changed = True

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
