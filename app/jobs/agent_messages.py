"""Messages that start agent runs: taken with the turns of their app, whatever its worker does.

Source: REST contract part 30, sections 9.4 and 13.1.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import AppError
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from app.jobs import deliveries
from app.jobs.delivery import Assignment
from app.pgqueue.types import Failure
from config.settings import JobSettings

log = structlog.get_logger(__name__)

NO_AGENT = "app has no agent"

StartAgentRun = Callable[[UnitOfWork, Assignment], None]


class AgentMessages:
    """Starts the runs; ``start`` raising ``AppError`` makes a message a dead letter."""

    def __init__(
        self, uow: UnitOfWorkFactory, jobs: JobSettings, start: StartAgentRun | None
    ) -> None:
        self._uow = uow
        self._jobs = jobs
        self._start = start

    def take(self, app_id: str) -> None:
        """Start a run for every visible message of an app. Never raises: the sweep looks again."""
        try:
            with self._uow.reading() as session:
                waits = deliveries.agent_waits(session, app_id)
            while waits:
                waits = self._take_some(app_id)
        except SQLAlchemyError as exc:
            log.warning("agent_messages_not_taken", app_id=app_id, reason=type(exc).__name__)

    def _take_some(self, app_id: str) -> bool:
        """Take as many as one transaction may; tell whether there are more."""
        most = self._jobs.in_flight_per_app
        with self._uow() as uow:
            batch = deliveries.take_for_agent(uow, self._jobs, app_id=app_id, most=most)
            for assignment in batch.assignments:
                self._start_run(uow, assignment)
        return not batch.exhausted

    def _start_run(self, uow: UnitOfWork, assignment: Assignment) -> None:
        reason = NO_AGENT
        if self._start is not None:
            try:
                with uow.session.begin_nested():
                    self._start(uow, assignment)
            except AppError as exc:
                reason = exc.message
            else:
                return
        receipt = assignment.delivery.receipt
        log.warning("agent_job_refused", msg_id=receipt.msg_id, reason=reason)
        deliveries.settle(uow, [Failure(receipt, reason)])
