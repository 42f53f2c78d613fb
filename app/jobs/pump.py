"""The jobs in flight on one node: claims them, hands them out, writes down how they ended.

A turn (a Celery message) only wakes the pump and holds no thread: one claimer thread serves the
apps that have something to do in a row, one settler thread writes down, in one transaction, all
jobs that ended within a few milliseconds. Handlers run in app processes; no transaction is open
meanwhile.

A turn lasts ``TURN_S``: then it goes back to the end of the Celery queue, so that other nodes and
apps get theirs. While all slots of an app are taken, no turn is held; the next free slot goes on.

Source: REST contract part 30, section 13.1; docs/states-job.md.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.errors import AppError
from app.core.messaging import Publisher
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from app.jobs import service
from app.jobs.delivery import Assignment, Settlement, judge
from app.jobs.messages import TakeTurn
from app.jobs.turns import Turns
from app.pgqueue.types import Failure, Receipt, Release
from app.workers.service import CallOutcome, WorkerHost
from config.settings import JobSettings
from workers_runtime.protocol import CallKind

log = structlog.get_logger(__name__)

TURN_S = 2.0
GATHER_S = 0.002
SETTLE_BATCH = 256
RETRY_S = 0.5
REAP_S = 1.0
POLL_S = 0.2

StartAgentRun = Callable[[UnitOfWork, Assignment], None]


@dataclass(slots=True)
class Lane:
    """One app on this node.

    Attributes:
        in_flight: deliveries that take a slot, and when (monotonic) they lose it.
        tokens: turns that were taken and not given back.
        until: end of the present turn, monotonic.
        more: the last claim found as much as it could take.
        fresh_turn: a turn came in since the last look.
        ready: waits for the claimer, or is being served (``serving``).
    """

    app_id: str
    in_flight: dict[Receipt, float] = field(default_factory=dict)
    tokens: int = 0
    until: float = 0.0
    more: bool = False
    fresh_turn: bool = False
    ready: bool = False
    serving: bool = False


class JobPump:
    """See the module. Thread-safe; one per node."""

    def __init__(
        self,
        *,
        uow: UnitOfWorkFactory,
        host: Callable[[], WorkerHost],
        turns: Turns,
        publisher: Publisher,
        jobs: JobSettings,
        start_agent_run: StartAgentRun | None = None,
    ) -> None:
        """Make a pump that stands still until ``start``.

        Args:
            host: returns the node; asked at every claim, because a runtime may be replaced.
            start_agent_run: starts the run of a message of route ``agent``; ``AppError`` makes
                the message a dead letter.
        """
        self._uow = uow
        self._host = host
        self._turns = turns
        self._publisher = publisher
        self._jobs = jobs
        self._start_agent_run = start_agent_run
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._ready: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Assignment, CallOutcome]] = queue.SimpleQueue()
        self._unsettled = 0
        self._closing = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for name, body in (("claimer", self._claim_loop), ("settler", self._settle_loop)):
            thread = threading.Thread(target=body, name=f"jobs-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def turn(self, app_id: str) -> None:
        """Take one turn of an app. Returns at once."""
        self._turns.seen(app_id)
        with self._lock:
            lane = self._lanes.setdefault(app_id, Lane(app_id))
            lane.tokens += 1
            lane.fresh_turn = True
            lane.until = time.monotonic() + TURN_S
            self._wake(lane)

    def close(self) -> None:
        """Claim nothing any more; what is in flight goes on."""
        self._closing.set()
        with self._lock:
            tokens = {lane.app_id: lane.tokens for lane in self._lanes.values()}
            for lane in self._lanes.values():
                lane.tokens = 0
        for app_id, count in tokens.items():
            self._turns.give_back(app_id, count)

    def finish(self, timeout_s: float) -> None:
        """Settle what ended, make visible what did not, and end the threads.

        Call it after ``close`` and after the node stopped its app processes.
        """
        self.close()
        deadline = time.monotonic() + timeout_s
        while self.in_flight() and time.monotonic() < deadline:
            time.sleep(GATHER_S)
        with self._lock:
            left = [receipt for lane in self._lanes.values() for receipt in lane.in_flight]
        if left:
            self._try_settle([Release(receipt) for receipt in left])
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def in_flight(self) -> int:
        """Return how many jobs run or wait to be written down."""
        with self._lock:
            return self._unsettled + sum(len(lane.in_flight) for lane in self._lanes.values())

    # --- claimer ---------------------------------------------------------------------------

    def _wake(self, lane: Lane) -> None:
        """Put a lane in the row unless it is there. The lock is held."""
        if not lane.ready:
            lane.ready = True
            if not lane.serving:
                self._ready.put(lane)

    def _claim_loop(self) -> None:
        reaped_at = time.monotonic()
        while not self._stopped.is_set():
            try:
                lane = self._ready.get(timeout=POLL_S)
            except queue.Empty:
                lane = None
            if lane is not None:
                self._serve_safely(lane)
            if time.monotonic() - reaped_at >= REAP_S:
                reaped_at = time.monotonic()
                self._reap()

    def _serve_safely(self, lane: Lane) -> None:
        with self._lock:
            lane.ready, lane.serving = False, True
        try:
            if not self._closing.is_set():
                self._serve(lane)
        except Exception as exc:  # noqa: BLE001 - a fault in one app must not stop the others
            # The jobs are in Postgres; the sweep gives the app another turn.
            expected = isinstance(exc, SQLAlchemyError | AppError)
            log.warning("turn_failed", app_id=lane.app_id, reason=type(exc).__name__,
                        exc_info=None if expected else exc)  # fmt: skip
            self._give_back(lane)
            with self._lock:
                lane.more = False
        finally:
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        with self._lock:
            lane.serving = False
            if lane.ready:
                self._ready.put(lane)
            elif not lane.in_flight and not lane.tokens:
                self._lanes.pop(lane.app_id, None)

    def _serve(self, lane: Lane) -> None:
        with self._lock:
            free = self._jobs.in_flight_per_app - len(lane.in_flight)
            new_turn, lane.fresh_turn = lane.fresh_turn, False
        if new_turn:
            self._take_agent_messages(lane.app_id)
        if free <= 0:
            with self._lock:
                lane.more = True
            self._give_back(lane)
            return
        with self._uow() as uow:
            batch = service.take(uow, self._jobs, app_id=lane.app_id, most=free)
        with self._lock:
            lane.more = not batch.exhausted
        for assignment in batch.assignments:
            self._hand_out(lane, assignment)
        if batch.exhausted:
            self._look_once_more(lane)
        elif time.monotonic() > lane.until:
            self._pass_on(lane)

    def _look_once_more(self, lane: Lane) -> None:
        """Give the count back BEFORE the last empty claim: no enqueue can fall between."""
        if self._give_back(lane):
            with self._lock:
                self._wake(lane)

    def _pass_on(self, lane: Lane) -> None:
        """End the turn: back to the end of the Celery queue."""
        with self._lock:
            lane.more = False
        self._give_back(lane)
        self._turns.seen(lane.app_id)
        self._publisher.publish([TakeTurn(lane.app_id)])

    def _give_back(self, lane: Lane) -> bool:
        with self._lock:
            count, lane.tokens = lane.tokens, 0
        self._turns.give_back(lane.app_id, count)
        return count > 0

    def _take_agent_messages(self, app_id: str) -> None:
        exhausted = False
        while not exhausted and not self._closing.is_set():
            with self._uow() as uow:
                batch = service.take_for_agent(
                    uow, self._jobs, app_id=app_id, most=self._jobs.in_flight_per_app
                )
                exhausted = batch.exhausted
                for assignment in batch.assignments:
                    self._start_run(uow, assignment)

    def _start_run(self, uow: UnitOfWork, assignment: Assignment) -> None:
        try:
            if self._start_agent_run is None:
                raise AppError("app has no agent")
            with uow.session.begin_nested():
                self._start_agent_run(uow, assignment)
        except AppError as exc:
            receipt = assignment.delivery.receipt
            log.warning("agent_job_refused", msg_id=receipt.msg_id, reason=exc.message)
            service.settle(uow, [Failure(receipt, exc.message)])

    def _hand_out(self, lane: Lane, assignment: Assignment) -> None:
        receipt = assignment.delivery.receipt
        with self._lock:
            lane.in_flight[receipt] = time.monotonic() + self._jobs.visibility_timeout.total_seconds()
        future = self._host().call(
            lane.app_id,
            CallKind.JOB,
            assignment.message(),
            actor=assignment.actor,
            lifetime_s=None,
        )
        future.add_done_callback(partial(self._call_ended, lane, assignment))

    def _call_ended(
        self, lane: Lane, assignment: Assignment, future: Future[CallOutcome]
    ) -> None:
        """Free the slot and leave the rest to the settler. Runs on the node's link thread."""
        with self._lock:
            self._unsettled += 1
            lane.in_flight.pop(assignment.delivery.receipt, None)
            if lane.more:
                self._wake(self._lanes.setdefault(lane.app_id, lane))
        self._ended.put((assignment, future.result()))

    # --- slots of jobs that do not answer ---------------------------------------------------

    def _reap(self) -> None:
        """Take slots back from jobs whose visibility timeout ran out.

        They were or will be delivered again; a late answer still counts (9.3). ``extend`` moves
        the timeout in Postgres, so it is asked there.
        """
        now = time.monotonic()
        with self._lock:
            overdue = [
                (lane, receipt)
                for lane in self._lanes.values()
                for receipt, end in lane.in_flight.items()
                if end <= now
            ]
        if not overdue:
            return
        try:
            with self._uow() as uow:
                left = service.deadlines(uow.session, [receipt for _, receipt in overdue])
        except SQLAlchemyError as exc:
            log.warning("deadlines_unknown", reason=type(exc).__name__)
            return
        with self._lock:
            for lane, receipt in overdue:
                if receipt not in lane.in_flight:
                    continue
                if left.get(receipt, 0) > 0:
                    lane.in_flight[receipt] = now + left[receipt]
                    continue
                del lane.in_flight[receipt]
                log.warning("job_not_answered", app_id=lane.app_id, msg_id=receipt.msg_id)
                if lane.more:
                    self._wake(lane)

    # --- settler ---------------------------------------------------------------------------

    def _settle_loop(self) -> None:
        while not self._stopped.is_set():
            try:
                ended = [self._ended.get(timeout=POLL_S)]
            except queue.Empty:
                continue
            self._gather(ended)
            settlements = [judge(assignment.delivery, outcome) for assignment, outcome in ended]
            self._settle([s for s in settlements if s is not None])
            with self._lock:
                self._unsettled -= len(ended)

    def _gather(self, ended: list[tuple[Assignment, CallOutcome]]) -> None:
        end = time.monotonic() + GATHER_S
        while len(ended) < SETTLE_BATCH:
            try:
                ended.append(self._ended.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                return

    def _settle(self, settlements: list[Settlement]) -> None:
        """Write ends down, however long Postgres is away: else finished work would run again."""
        while settlements and not self._try_settle(settlements):
            if self._stopped.wait(RETRY_S):
                return

    def _try_settle(self, settlements: list[Settlement]) -> bool:
        """Write ends down; false when Postgres is away and another attempt makes sense."""
        try:
            with self._uow() as uow:
                service.settle(uow, settlements)
        except (OperationalError, InterfaceError, PoolTimeout) as exc:
            log.warning("jobs_not_settled", count=len(settlements), reason=type(exc).__name__)
            return False
        except Exception as exc:  # noqa: BLE001 - one unwritable end must not hold up the others
            if len(settlements) == 1:
                log.error("job_not_settled", exc_info=exc)
                return True
            return all([self._try_settle([settlement]) for settlement in settlements])
        return True
