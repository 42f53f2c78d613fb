"""Writes down how deliveries ended, whatever stands in the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.uow import UnitOfWorkFactory
from app.jobs import deliveries
from app.jobs.delivery import Settlement

log = structlog.get_logger(__name__)

RETRY_S = 0.5
AWAY = (OperationalError, InterfaceError, PoolTimeout)


class Ledger:
    """Settles deliveries in transactions of its own; thread-safe."""

    def __init__(self, uow: UnitOfWorkFactory, stopped: threading.Event) -> None:
        """Take what opens transactions, and what ends all waiting."""
        self._uow = uow
        self._stopped = stopped

    def write(self, settlements: Sequence[Settlement]) -> None:
        """Settle, however long Postgres is away: else finished work would run again."""
        while settlements and not self._try_to_write(settlements):
            if self._stopped.wait(RETRY_S):
                return

    def _try_to_write(self, settlements: Sequence[Settlement]) -> bool:
        """Settle; false when Postgres is away and another attempt makes sense."""
        try:
            with self._uow() as uow:
                deliveries.settle(uow, settlements)
        except AWAY as exc:
            log.warning("jobs_not_settled", count=len(settlements), reason=type(exc).__name__)
            return False
        except (SQLAlchemyError, ValueError) as exc:
            # One end that cannot be written down must not hold up the others.
            if len(settlements) == 1:
                log.exception("job_not_settled", kind=type(exc).__name__)
                return True
            done = [self._try_to_write([settlement]) for settlement in settlements]
            return all(done)
        return True
