"""What a working run listens to: cancelling, time, and the end of its worker process.

One thread per process shows that its runs are alive and looks for cancelled ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.agents import run_repository as repository
from app.core.platform import Platform
from app.jobs import service as jobs_service

log = structlog.get_logger(__name__)

POLL_S = 0.5
WAIT_STEP_S = 0.1


class Cancelled(Exception):
    """The run is to be cancelled."""


class Yielding(Exception):
    """The worker process ends; the run goes on elsewhere."""


class RunFailed(Exception):
    """The run cannot go on; the text is for its invoker."""


class Control:
    """The switch of one run. Sub-agents use their parent's.

    Args:
        run_id: the root run.
        owner: name under which the run is held.
        limit_s: seconds it may still work.
        shown_limit: the limit named in the error.
        job_id: the queue message to keep hidden meanwhile.
    """

    def __init__(
        self,
        run_id: UUID,
        owner: str,
        *,
        limit_s: float,
        shown_limit: float,
        job_id: int | None = None,
    ) -> None:
        self.run_id = run_id
        self.owner = owner
        self.job_id = job_id
        self.cancelled = threading.Event()
        self._stopping = threading.Event()
        self._shown_limit = shown_limit
        self._limit_s = limit_s
        self._started = time.monotonic()
        self._paused_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of work since this worker took the run."""
        return time.monotonic() - self._started - self._paused_s

    @property
    def remaining_s(self) -> float:
        """Seconds the run may still work."""
        return max(0.0, self._limit_s - self.elapsed_s)

    def stop(self) -> None:
        """Ask the run to be handed on."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether the run is to be handed on."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Do not count a wait for a decision."""
        self._paused_s += seconds

    def check(self, *, may_yield: bool = True) -> None:
        """Pass, or raise what ends this run's work here.

        Args:
            may_yield: False inside a step that must not be repeated.
        """
        if self.cancelled.is_set():
            raise Cancelled
        if self.elapsed_s > self._limit_s:
            raise RunFailed(f"run exceeded {self._shown_limit:g} seconds")
        if may_yield and self.stopping:
            raise Yielding

    def wait(self, seconds: float) -> None:
        """Sleep, waking up for whatever ends the run's work."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, WAIT_STEP_S))


class Keeper:
    """Keeps the runs of this process alive in Postgres and hears about cancelled ones.

    Args:
        platform: the process's platform.
        name: of this process, for people who look at rows.
    """

    def __init__(self, platform: Platform, name: str) -> None:
        self._platform = platform
        self._name = name
        self._controls: dict[UUID, Control] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._slots = platform.settings.agents.runs_per_node

    def new_owner(self) -> str:
        """Return the name to hold one run under; never used twice.

        A run that comes back to this process after it was given up has another one, so that
        whoever worked on it before notices.
        """
        return f"{self._name}/{uuid4().hex}"

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Take one of the node's places for a run; give False when none is free."""
        with self._lock:
            free = self._slots > 0 and not self._stopping
            self._slots -= free
        try:
            yield free
        finally:
            with self._lock:
                self._slots += free

    @contextmanager
    def watch(self, control: Control) -> Iterator[None]:
        """Look after a run until the end of the block."""
        with self._lock:
            self._controls[control.run_id] = control
            if self._stopping:
                control.stop()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="agents", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._controls.pop(control.run_id, None)

    def stop(self) -> None:
        """Ask every run to be handed on and take no more."""
        with self._lock:
            self._stopping = True
            for control in self._controls.values():
                control.stop()

    def _keep(self) -> None:
        beat_s = self._platform.settings.agents.heartbeat.total_seconds()
        due = 0.0
        while True:
            with self._lock:
                controls = list(self._controls.values())
                if not controls:
                    self._thread = None
                    return
            beat = time.monotonic() >= due
            if beat:
                due = time.monotonic() + beat_s
            try:
                self._look(controls, beat=beat)
            except SQLAlchemyError as exc:
                log.warning("agent_heartbeat_failed", reason=type(exc).__name__)
            except Exception:
                # Without this thread every run of the process would count as lost.
                log.exception("agent_heartbeat_failed")
            time.sleep(POLL_S)

    def _look(self, controls: list[Control], *, beat: bool) -> None:
        with self._platform.uow() as uow:
            if beat:
                repository.beat(uow.session, [control.owner for control in controls])
                hidden_s = self._platform.settings.jobs.visibility_timeout.total_seconds()
                for control in controls:
                    if control.job_id is not None:
                        jobs_service.hold(uow, control.job_id, hidden_s)
            ids = [control.run_id for control in controls]
            gone = repository.cancelled_among(uow.session, ids)
        for control in controls:
            if control.run_id in gone:
                control.cancelled.set()
