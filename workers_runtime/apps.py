"""One app on this node: the worker that serves it and those that come and go beside it.

Where the operator allows several processes per app, siblings of the serving worker start while it is
busy and stop when they are idle.

A new deployment or generation starts beside the serving worker, takes over when it runs, and the
old one is drained: it gets no new calls, may finish its RPCs, and is then stopped.

Source: contract part 30, 2 (steps 5, 6), 3.2, 3.4.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from workers_runtime.process import AppProcess
from workers_runtime.protocol import (
    AppSpec,
    AppState,
    AppStatus,
    FailureKind,
    Handshake,
    WorkerFailure,
)
from workers_runtime.worker import Host, Worker

STAGED_LIFETIME_S = 120.0
STATUS_ORDER = (
    AppStatus.RUNNING,
    AppStatus.STARTING,
    AppStatus.STOPPING,
    AppStatus.CRASHED,
    AppStatus.STOPPED,
)


class App:
    """The workers of one app."""

    def __init__(self, app_id: str, host: Host) -> None:
        self.app_id = app_id
        self.home = False
        self.last_used = time.monotonic()
        self._host = host
        self._current: Worker | None = None
        self._siblings: list[Worker] = []
        self._next: Worker | None = None
        self._staged: Worker | None = None
        self._staged_timer: asyncio.TimerHandle | None = None
        self._draining: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- commands --------------------------------------------------------------------------

    async def ensure(
        self, spec: AppSpec, *, staged: bool, clear: bool, deadline: float | None
    ) -> Handshake:
        """Have a process of the spec running; see ``node_protocol.Ensure``.

        Raises:
            WorkerFailure: it does not come up; the worker that served before still does.
        """
        self.last_used = time.monotonic()
        if not staged:
            self.home = spec.home
        worker = self._stage(spec) if staged else self._choose(spec)
        if clear:
            worker.start(clear=True)
        try:
            await worker.wait_running(deadline)
        except WorkerFailure:
            self._give_up(worker)
            raise
        return worker.handshake()

    def discard(self) -> None:
        """Stop the staged worker, if any."""
        if self._staged_timer is not None:
            self._staged_timer.cancel()
        worker, self._staged = self._staged, None
        if worker is not None:
            self._retire(worker)

    def route(self, generation: int) -> Worker:
        """Return the worker for a call: the least busy of those that run its generation.

        Raises:
            WorkerFailure: unknown_app: no spec, or only an older one.
        """
        self.last_used = time.monotonic()
        current = self._current
        if current is not None and current.spec.generation >= generation:
            return current if self._limit == 1 else self._least_busy(current)
        if self._next is not None and self._next.spec.generation >= generation:
            return self._next
        raise WorkerFailure(FailureKind.UNKNOWN_APP, f"app '{self.app_id}' must be ensured")

    def running(self, generation: int) -> AppProcess | None:
        """Return the process a call can have at once, if there is one."""
        try:
            return self.route(generation).running
        except WorkerFailure:
            return None

    async def stop(self) -> None:
        """Stop every process and wait until all are gone; the specs are forgotten."""
        workers = self.workers()
        self._current = self._next = self._staged = None
        self._siblings.clear()
        self._draining.update(workers)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*(worker.stopped() for worker in workers))
        self._draining.clear()
        for task in self._tasks:
            task.cancel()

    def stop_idle(self, idle_s: float) -> bool:
        """Stop the worker that is not needed, if there is one; its spec stays. True if so."""
        worker = self._idle_worker()
        process = worker.running if worker is not None else None
        if worker is None or process is None or time.monotonic() - process.last_used < idle_s:
            return False
        if worker in self._siblings:
            self._siblings.remove(worker)
            self._retire(worker)
        else:
            worker.stop()
        return True

    def idle_process(self) -> AppProcess | None:
        """Return a process that may be stopped: no call open, and not the one a home keeps."""
        worker = self._idle_worker()
        return worker.running if worker is not None else None

    def _idle_worker(self) -> Worker | None:
        idle = [w for w in self._siblings if w.running is not None and not w.in_flight]
        if idle:
            return min(idle, key=lambda w: w.running.last_used if w.running else 0.0)
        worker = self._current
        if self.home or self._siblings or worker is None or worker.running is None:
            return None
        return None if worker.in_flight else worker

    # --- what is there ---------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """Return every worker, serving, coming and going."""
        chosen = (self._current, *self._siblings, self._next, self._staged, *self._draining)
        return list(dict.fromkeys(worker for worker in chosen if worker is not None))

    def state(self) -> AppState:
        """Describe the app for the node."""
        chosen = (self._current, *self._siblings, self._next)
        serving = [worker for worker in chosen if worker is not None]
        if not serving:
            stopping = any(worker.slot.alive for worker in self._draining)
            status = AppStatus.STOPPING if stopping else AppStatus.STOPPED
            return AppState(app_id=self.app_id, status=status, processes=self._alive())
        best = min(serving, key=lambda w: STATUS_ORDER.index(w.status))
        process = best.process
        crashed = best.slot.last_crash_at
        # The slot's clock is monotonic; the node wants Unix time.
        ago = None if crashed is None else asyncio.get_running_loop().time() - crashed
        return AppState(
            app_id=self.app_id,
            status=best.status,
            deployment_id=best.spec.deployment_id,
            generation=best.spec.generation,
            pid=process.pid if process is not None and process.pid else None,
            restarts=best.slot.restarts,
            started_at=process.started_at if process is not None and process.pid else None,
            last_crash_at=None if ago is None else time.time() - ago,
            last_error=best.slot.last_error,
            home=self.home,
            in_flight=sum(worker.in_flight for worker in self.workers()),
            processes=self._alive(),
            capabilities=process.capabilities if process is not None else [],
            sandbox=self._host.sandbox.report() if process is not None else [],
        )

    def _alive(self) -> int:
        return sum(worker.slot.alive for worker in self.workers())

    # --- several processes -----------------------------------------------------------------

    @property
    def _limit(self) -> int:
        return self._host.settings.procs_per_app

    def _least_busy(self, current: Worker) -> Worker:
        """Return the worker with the fewest calls, and have one more started if all have some."""
        running = [w for w in (current, *self._siblings) if w.running is not None]
        best = min(running, key=lambda w: w.in_flight, default=current)
        coming = any(w.running is None for w in self._siblings)
        if best.in_flight and not coming and len(self._siblings) + 1 < self._limit:
            sibling = Worker(current.spec, self._host)
            self._siblings.append(sibling)
            sibling.start()
        return best

    # --- coming and going ------------------------------------------------------------------

    def _stage(self, spec: AppSpec) -> Worker:
        worker = self._staged
        if worker is None or not worker.spec.same_process(spec):
            self.discard()
            worker = self._staged = Worker(spec, self._host)
            worker.start(clear=True)
        if self._staged_timer is not None:
            self._staged_timer.cancel()
        loop = asyncio.get_running_loop()
        self._staged_timer = loop.call_later(STAGED_LIFETIME_S, self.discard)
        return worker

    def _choose(self, spec: AppSpec) -> Worker:
        """Return the worker for a spec, making it if none fits."""
        for worker in (self._current, self._next):
            if worker is not None and _serves(worker, spec):
                return worker
        worker = self._promote_staged(spec) or Worker(spec, self._host)
        if self._current is None:
            self._current = worker
            # A staged worker that runs already would otherwise never be reported.
            self._host.changed(worker)
            return worker
        if self._next is not None:
            self._retire(self._next)
        self._next = worker
        self.changed(worker)
        return worker

    def _promote_staged(self, spec: AppSpec) -> Worker | None:
        worker = self._staged
        if worker is None or not worker.spec.same_process(spec):
            return None
        self._staged = None
        if self._staged_timer is not None:
            self._staged_timer.cancel()
        return worker

    def changed(self, worker: Worker) -> None:
        """Let the coming worker take over as soon as it runs; drop it when it failed."""
        if worker in self._siblings and worker.status is AppStatus.CRASHED:
            self._siblings.remove(worker)
        if worker is not self._next:
            return
        if worker.status is AppStatus.RUNNING:
            old, self._current, self._next = self._current, worker, None
            siblings, self._siblings = self._siblings, []
            for retired in (old, *siblings):
                if retired is not None:
                    self._retire(retired)
        elif worker.status is AppStatus.CRASHED:
            self._next = None

    def _give_up(self, worker: Worker) -> None:
        """Forget a worker whose first start failed for good; the old one keeps serving."""
        if worker.status not in {AppStatus.STOPPED, AppStatus.CRASHED}:
            return
        if worker is self._next:
            self._next = None
        elif worker is self._staged:
            self.discard()

    def _retire(self, worker: Worker) -> None:
        self._draining.add(worker)
        task = asyncio.get_running_loop().create_task(self._drain(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, worker: Worker) -> None:
        """Let the worker finish its RPCs, then stop it; jobs get the stop grace."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._host.settings.rpc_timeout_s
        while worker.process is not None and worker.process.in_flight_rpcs:
            if loop.time() > end or worker.status is not AppStatus.RUNNING:
                break
            await asyncio.sleep(0.05)
        worker.stop()
        await worker.stopped()
        self._draining.discard(worker)
        self._host.changed(worker)


def _serves(worker: Worker, spec: AppSpec) -> bool:
    """Say whether a worker may answer for a spec; an older spec is a late message."""
    if worker.spec.same_process(spec):
        worker.spec = replace(worker.spec, home=spec.home)
        return True
    return spec.generation < worker.spec.generation
