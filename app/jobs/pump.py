"""The jobs in flight on one node: claims them, hands them out, writes down how they ended.

A turn (a Celery message) only wakes the pump and holds no thread. One thread works in cycles:
in one transaction it writes down all jobs that ended within a few milliseconds and claims new
ones for the slots that became free; another hands them out. Handlers run in app processes; no
transaction is open meanwhile.

A turn lasts ``TURN_S``: then it goes back to the end of the Celery queue, so that other nodes and
apps get theirs. While all slots of an app are taken no turn is held; a slot that becomes free
goes on by itself.

Source: REST contract part 30, section 13.1; docs/states-job.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import AppError
from app.core.messaging import Publisher
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from app.jobs import deliveries
from app.jobs.agent_messages import AgentMessages, StartAgentRun
from app.jobs.delivery import NOT_RUNNABLE, Assignment, Settlement, TakenBatch, judge
from app.jobs.lanes import Lane, Lanes
from app.jobs.ledger import Ledger
from app.jobs.messages import TakeTurn
from app.jobs.turns import Turns
from app.pgqueue.types import Release
from app.workers.service import CallOutcome, OutcomeKind, WorkerHost
from config.settings import JobSettings
from workers_runtime.protocol import CallKind

log = structlog.get_logger(__name__)

TURN_S = 2.0
GATHER_S = 0.002
ENDED_PER_CYCLE = 256
LANES_PER_CYCLE = 16
REAP_S = 1.0
POLL_S = 0.2
# A stop that comes in between is noticed by the node, which hands the job back uncounted.
RUNNABLE_S = 0.5
# A claimed job without a slot goes back then: its app has become slower than it was.
STALE_S = 1.0

Ended = tuple[Lane, Assignment, CallOutcome]


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
            uow: opens the transactions.
            host: returns the node; asked at every call.
            turns: the count of turns that are out.
            publisher: passes turns on.
            jobs: limits and timeouts.
            start_agent_run: starts the run of a message of route ``agent``; ``AppError`` makes
                the message a dead letter.
        """
        self._uow = uow
        self._host = host
        self._turns = turns
        self._publisher = publisher
        self._jobs = jobs
        self._agent_messages = AgentMessages(uow, jobs, start_agent_run)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._slots = threading.Condition(self._lock)
        self._lanes = Lanes(jobs.in_flight_per_app)
        self._ended: deque[Ended] = deque()
        self._settling = 0
        self._closing = threading.Event()
        self._stopped = threading.Event()
        self._ledger = Ledger(uow, self._stopped)
        self._threads = [
            threading.Thread(target=self._run, name="job-pump", daemon=True),
            threading.Thread(target=self._hand_out, name="job-hands", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def turn(self, app_id: str) -> None:
        """Take one turn of an app. Returns at once."""
        with self._lock:
            self._lanes.add_turn(app_id, time.monotonic() + TURN_S)
            self._work.notify()

    def close(self) -> None:
        """Claim and hand out nothing any more; what is in flight goes on."""
        self._closing.set()
        self._give_back(None)
        self._release_waiting(time.monotonic())

    def finish(self, timeout_s: float) -> None:
        """Settle what ended, make visible what did not, and end the thread.

        Call it after ``close`` and after the node stopped its app processes.
        """
        self.close()
        deadline = time.monotonic() + timeout_s
        while self.in_flight() and time.monotonic() < deadline:
            time.sleep(GATHER_S)
        with self._lock:
            left = [receipt for lane in self._lanes for receipt in lane.in_flight]
        self._ledger.write([Release(receipt) for receipt in left])
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def in_flight(self) -> int:
        """Return how many jobs run or wait to be written down."""
        with self._lock:
            return self._lanes.in_flight + len(self._ended) + self._settling

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        reaped_at = time.monotonic()
        while not self._stopped.is_set():
            ended, lanes = self._wait()
            try:
                self._cycle(ended, lanes)
            except Exception as exc:
                # The jobs are in Postgres: they come back by their timeout, turns by the sweep.
                log.exception("job_cycle_failed", kind=type(exc).__name__)
                self._drop(lanes)
            finally:
                with self._lock:
                    self._settling = 0
                    self._lanes.drop_idle(lanes)
            now = time.monotonic()
            self._release_waiting(now - STALE_S)
            if now - reaped_at >= REAP_S:
                reaped_at = now
                self._reap()

    def _wait(self) -> tuple[list[Ended], list[Lane]]:
        """Wait for something to do; after the first end wait a little for others."""
        with self._work:
            if not self._ended and not self._lanes.waiting:
                self._work.wait(POLL_S)
            gather = bool(self._ended) and self._lanes.in_flight > 0
        if gather:
            time.sleep(GATHER_S)
        with self._lock:
            count = min(len(self._ended), ENDED_PER_CYCLE)
            self._settling = count
            ended = [self._ended.popleft() for _ in range(count)]
            return ended, self._lanes.next_ready(LANES_PER_CYCLE)

    def _cycle(self, ended: Sequence[Ended], lanes: Sequence[Lane]) -> None:
        settlements = self._judge(ended)
        claims = [] if self._closing.is_set() else self._plan(lanes)
        try:
            batches = self._write(settlements, claims)
        except (SQLAlchemyError, AppError, ValueError) as exc:
            log.warning("job_cycle_undone", reason=type(exc).__name__, count=len(settlements))
            self._drop(lanes)
            self._ledger.write(settlements)
            return
        for lane, batch in batches:
            self._after_claim(lane, batch)
        for lane in lanes:
            if lane.new_turn:
                lane.new_turn = False
                if not self._closing.is_set():
                    self._agent_messages.take(lane.app_id)

    def _write(
        self, settlements: Sequence[Settlement], claims: Sequence[tuple[Lane, int]]
    ) -> list[tuple[Lane, TakenBatch]]:
        """Write down what ended, then claim; each claim by itself and without waiting for the disk."""
        batches = []
        with self._uow.single() as uow:
            deliveries.settle(uow, settlements)
            for lane, room in claims:
                batch = self._take(uow, lane, room)
                batches.append((lane, batch))
                self._add(lane, batch)
        return batches

    def _add(self, lane: Lane, batch: TakenBatch) -> None:
        """Queue claimed jobs for the thread that hands them out; hand out a lone one here."""
        now = time.monotonic()
        with self._lock:
            lane.more = not batch.exhausted
            lane.ahead.extend((assignment, now) for assignment in batch.assignments)
            found = self._next() if len(batch.assignments) == 1 else None
            if found is None or lane.ahead:
                self._slots.notify()
        if found is not None:
            self._call(*found)
        if self._closing.is_set():
            self._release_waiting(now + 1)

    def _judge(self, ended: Sequence[Ended]) -> list[Settlement]:
        settlements: list[Settlement] = []
        stopped: list[Lane] = []
        for lane, assignment, outcome in ended:
            if outcome.kind in NOT_RUNNABLE:
                lane.runnable_until = 0.0
                stopped.append(lane)
            settlement = judge(assignment.delivery, outcome)
            if settlement is not None:
                settlements.append(settlement)
        with self._lock:
            waiting = [a for lane in stopped for a in lane.take_ahead()]
        return settlements + [Release(a.delivery.receipt, uncount=True) for a in waiting]

    def _plan(self, lanes: Sequence[Lane]) -> list[tuple[Lane, int]]:
        """Return the lanes with room; the others give their turns back and go on later."""
        with self._lock:
            rooms = [(lane, self._lanes.room(lane)) for lane in lanes]
            full = [lane for lane, room in rooms if room <= 0]
            for lane in full:
                lane.more = True
        if full:
            self._give_back(full)
        return [(lane, room) for lane, room in rooms if room > 0]

    def _take(self, uow: UnitOfWork, lane: Lane, room: int) -> TakenBatch:
        now = time.monotonic()
        if now >= lane.runnable_until:
            if not deliveries.may_run(uow.session, lane.app_id):
                return TakenBatch([], exhausted=True)
            lane.runnable_until = now + RUNNABLE_S
        give_back = self._ledger.write
        return deliveries.take(uow, self._jobs, app_id=lane.app_id, most=room, give_back=give_back)

    def _after_claim(self, lane: Lane, batch: TakenBatch) -> None:
        if batch.exhausted:
            self._look_once_more(lane)
        elif time.monotonic() > lane.until:
            self._pass_on(lane)

    def _look_once_more(self, lane: Lane) -> None:
        """Give the count back BEFORE the last empty claim: no enqueue can fall between."""
        if self._give_back([lane]):
            with self._lock:
                self._lanes.wake(lane)

    def _pass_on(self, lane: Lane) -> None:
        """End the turn: back to the end of the Celery queue."""
        with self._lock:
            lane.more = False
        self._give_back([lane])
        self._turns.seen(lane.app_id)
        self._publisher.publish([TakeTurn(lane.app_id)])

    def _drop(self, lanes: Sequence[Lane]) -> None:
        """Look at nothing more for now; the sweep gives these apps another turn."""
        with self._lock:
            for lane in lanes:
                lane.more = lane.new_turn = False
        self._give_back(lanes)

    def _give_back(self, lanes: Sequence[Lane] | None) -> bool:
        with self._lock:
            counts = self._lanes.take_tokens(lanes)
        for app_id, count in counts.items():
            self._turns.give_back(app_id, count)
        return bool(counts)

    # --- calls -----------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Hand claimed jobs to app processes as their slots become free."""
        while not self._stopped.is_set():
            with self._slots:
                found = self._next()
                if found is None:
                    self._slots.wait(POLL_S)
                    continue
            self._call(*found)

    def _next(self) -> tuple[Lane, Assignment] | None:
        """Take a slot for a claimed job; the lock is held."""
        if self._closing.is_set():
            return None
        timeout_s = self._jobs.visibility_timeout.total_seconds()
        return self._lanes.next_to_hand_out(time.monotonic() + timeout_s)

    def _call(self, lane: Lane, assignment: Assignment) -> None:
        began = time.monotonic()
        try:
            future = self._host().call(
                lane.app_id,
                CallKind.JOB,
                assignment.message(),
                actor=assignment.actor,
                lifetime_s=None,
            )
        except Exception as exc:
            log.exception("job_not_handed_out", msg_id=assignment.delivery.msg_id)
            future = Future()
            future.set_result(CallOutcome(ok=False, error=str(exc), kind=OutcomeKind.NOT_READY))
        future.add_done_callback(partial(self._call_ended, lane, assignment, began))

    def _call_ended(
        self, lane: Lane, assignment: Assignment, began: float, future: Future[CallOutcome]
    ) -> None:
        """Free the slot and leave the rest to the threads. Runs on the node's link thread."""
        outcome = future.result()
        with self._lock:
            lane.note_duration(time.monotonic() - began)
            self._lanes.end(lane, assignment.delivery.receipt)
            self._ended.append((lane, assignment, outcome))
            # Waking threads costs more than the rest of a short job's way through here.
            if len(self._ended) == 1:
                self._work.notify()
            if lane.ahead:
                self._slots.notify()

    def _release_waiting(self, claimed_before: float) -> None:
        """Put claimed jobs back that never got a slot; their delivery does not count."""
        with self._lock:
            stale = self._lanes.take_stale(claimed_before)
        self._ledger.write([Release(a.delivery.receipt, uncount=True) for a in stale])

    # --- ends ------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Take slots back from jobs whose visibility timeout ran out.

        They were or will be delivered again; a late answer still counts (9.3). ``extend`` moves
        the timeout in Postgres, so it is asked there.
        """
        now = time.monotonic()
        with self._lock:
            overdue = self._lanes.overdue(now)
        if not overdue:
            return
        try:
            with self._uow() as uow:
                left = deliveries.deadlines(uow.session, [receipt for _, receipt in overdue])
        except SQLAlchemyError as exc:
            log.warning("deadlines_unknown", reason=type(exc).__name__)
            return
        with self._lock:
            for lane, receipt in overdue:
                if receipt in lane.in_flight and left.get(receipt, 0) > 0:
                    lane.in_flight[receipt] = now + left[receipt]
                elif receipt in lane.in_flight:
                    log.warning("job_not_answered", app_id=lane.app_id, msg_id=receipt.msg_id)
                    self._lanes.end(lane, receipt)
