"""The beat that leads: writes down due ticks the moment they are due.

Leadership is a session advisory lock; every tick is written through the connection that holds
it, so a beat that lost its connection cannot tick any more, and another one leads within
``TICK_LEADER_RETRY``. NOTIFY on the same connection tells of changed crons.

Source: REST contract part 30, section 13.2.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
import structlog
from sqlalchemy import Connection, Engine, create_engine, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.clock import Clock, utc_now
from app.core.locks import NAMESPACE, AdvisoryLock
from app.core.schedule import MINUTE, floor_minute
from app.crons import repository
from app.crons.ticker import SHARDS, Tick, Ticker, shard_of

log = structlog.get_logger(__name__)

RELOAD_S = 30.0
LONGEST_WAIT_S = 0.5
# Crons are not reloaded in the last moments before a tick, which would be late by it.
QUIET_S = 1.0
# More ticks than this are written shard by shard: the first are fired while others are written.
TOGETHER = 1000


@dataclass(slots=True)
class _Lead:
    """What holding the lock comes with.

    Attributes:
        connection: holds the lock.
        handled: the last minute whose ticks are written down.
        changed: some cron changed since the last load.
    """

    connection: Connection
    handled: datetime
    ticker: Ticker
    loaded_at: float = float("-inf")
    changed: bool = True


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
            fire: told of a shard whose ticks were written down; must return at once.
            clock: tells the time.
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
        self._lead: _Lead | None = None
        self._tried_at = float("-inf")

    @property
    def leading(self) -> bool:
        """Whether this process holds the lock, as far as it knows."""
        return self._lead is not None

    def step(self) -> None:
        """Do what is due, then wait until something is, at most half a second.

        A database that is away ends leadership and is never raised.
        """
        try:
            if self._lead is None:
                self._lead = self._try_to_lead()
            if self._lead is None:
                time.sleep(LONGEST_WAIT_S)
                return
            self._reload_if_needed(self._lead)
            self._tick(self._lead)
            self._wait(self._lead)
        except (DBAPIError, psycopg2.Error, OSError) as exc:
            log.warning("scheduler_lost_database", reason=type(exc).__name__)
            self.resign()
            time.sleep(LONGEST_WAIT_S)

    def resign(self) -> None:
        """Give up the lock; another beat may lead at once."""
        lead, self._lead = self._lead, None
        if lead is not None:
            try:
                lead.connection.invalidate()
            finally:
                lead.connection.close()

    def _try_to_lead(self) -> _Lead | None:
        if time.monotonic() - self._tried_at < self._retry_s:
            return None
        self._tried_at = time.monotonic()
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        values = {"namespace": NAMESPACE, "name": int(AdvisoryLock.SCHEDULER)}
        query = text("SELECT pg_try_advisory_lock(:namespace, :name)")
        if not connection.execute(query, values).scalar_one():
            connection.close()
            return None
        connection.execute(text(f"LISTEN {repository.CHANGED}"))
        with Session(connection) as session:
            handled = repository.last_minute(session, otherwise=floor_minute(self._clock()))
        log.info("scheduler_leads")
        return _Lead(connection, handled, Ticker())

    def _reload_if_needed(self, lead: _Lead) -> None:
        old = time.monotonic() - lead.loaded_at > RELOAD_S
        if not lead.changed and not (old and self._seconds_left(lead) > QUIET_S):
            return
        lead.changed = False
        lead.loaded_at = time.monotonic()
        with Session(lead.connection) as session:
            lead.ticker.load(repository.plans(session), handled=lead.handled)

    def _tick(self, lead: _Lead) -> None:
        now = self._clock()
        minute = max(floor_minute(now), lead.handled)
        ticks = lead.ticker.take(now=now, handled=lead.handled)
        if not ticks and minute == lead.handled:
            return
        with Session(lead.connection) as session:
            parts = _parts(ticks)
            for number, (shard, part) in enumerate(parts, start=1):
                # A minute of which only some parts were written is gone through again.
                handled = minute if number == len(parts) else lead.handled
                if repository.write_ticks(session, part, minute=handled):
                    self._fire(shard)
        lead.handled = minute

    def _seconds_left(self, lead: _Lead) -> float:
        """Return the seconds until the next tick or the end of the minute."""
        now = self._clock()
        end = max(floor_minute(now), lead.handled) + MINUTE
        due = lead.ticker.next_due()
        return ((end if due is None else min(due, end)) - now).total_seconds()

    def _wait(self, lead: _Lead) -> None:
        """Sleep until something is due, a cron changes or the connection breaks."""
        raw: Any = lead.connection.connection.driver_connection  # Any: psycopg2's connection
        timeout_s = max(0.0, min(self._seconds_left(lead), LONGEST_WAIT_S))
        if select.select([raw], [], [], timeout_s)[0]:
            raw.poll()
        if raw.notifies:
            raw.notifies.clear()
            lead.changed = True


def _parts(ticks: Sequence[Tick]) -> list[tuple[int, Sequence[Tick]]]:
    """Return ticks as they are written down, and the shard to begin with when each part is."""
    if len(ticks) <= TOGETHER:
        return [(0, ticks)]
    parts: list[list[Tick]] = [[] for _ in range(SHARDS)]
    for tick in ticks:
        parts[shard_of(tick.cron_id)].append(tick)
    return list(enumerate(parts))
