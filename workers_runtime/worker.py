"""One slot of an app: its state machine, driven by a real process and real timers."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from typing import Protocol

from config.runtime import RuntimeSettings
from workers_runtime import states
from workers_runtime.conversation import Conversation
from workers_runtime.environments import Command
from workers_runtime.launch import Launcher
from workers_runtime.opencalls import OpenCall
from workers_runtime.places import Places
from workers_runtime.process import AppProcess
from workers_runtime.protocol import (
    AppSpec,
    AppStatus,
    FailureKind,
    Handshake,
    JSONObject,
    WorkerFailure,
)
from workers_runtime.sandbox import Identity, Sandbox, process_environment

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a worker needs of the runtime around it."""

    settings: RuntimeSettings
    sandbox: Sandbox
    launcher: Launcher
    places: Places

    def identity(self, app_id: str) -> Identity | None:
        """Return the app's user, or None when the host is not root."""

    async def prepare(self, spec: AppSpec) -> Command:
        """Unpack the bundle, install dependencies; raises ``WorkerFailure``."""

    async def reserve(self, worker: Worker) -> None:
        """Wait until the node has room for one more process."""

    def add_log(self, app_id: str, level: str, message: str, pid: int) -> None:
        """Take a log line."""

    def add_operation(self, process: Conversation, call: OpenCall, message: JSONObject) -> None:
        """Pass an operation on to the node."""

    def start_call_ended(self, app_id: str, call: str) -> None:
        """Tell the node that a start call is over."""

    def changed(self, worker: Worker) -> None:
        """Handle a new state of the worker."""


class Worker:
    """A slot running one spec; implements ``ProcessListener``."""

    def __init__(self, spec: AppSpec, host: Host) -> None:
        self.spec = spec
        self.slot = states.Slot()
        self.process: AppProcess | None = None
        self.waiting_for_room = False
        self._host = host
        self._policy = states.Policy(host.settings.max_crashes, host.settings.crash_window_s)
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._failure: WorkerFailure | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._gone.set()

    # --- what others ask -------------------------------------------------------------------

    @property
    def status(self) -> AppStatus:
        """State of the slot."""
        return self.slot.status

    @property
    def running(self) -> AppProcess | None:
        """The process if it takes calls."""
        return self.process if self.slot.status is AppStatus.RUNNING else None

    @property
    def in_flight(self) -> int:
        """Number of open calls."""
        return self.process.in_flight if self.process is not None else 0

    def start(self, *, clear: bool = False) -> None:
        """Ask for a running process; idempotent."""
        self.dispatch(states.Start(clear=clear))

    def stop(self) -> None:
        """Ask for its end; idempotent."""
        self.dispatch(states.StopAsked())

    async def stopped(self) -> None:
        """Wait until there is no process."""
        await self._gone.wait()

    async def wait_running(self, deadline: float | None) -> AppProcess:
        """Start if need be and wait for a process that takes calls.

        Args:
            deadline: Unix time, or None.

        Raises:
            WorkerFailure: it failed for good, is cooling down, was stopped, or time is up.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            self.start()
            if self.running is None:
                async with asyncio.timeout(_remaining(deadline)):
                    await waiter
        except TimeoutError:
            raise self._too_late() from None
        finally:
            self._waiters.discard(waiter)
        if self.process is None:
            raise WorkerFailure(FailureKind.CRASHED, "worker crashed")
        return self.process

    def handshake(self) -> Handshake:
        """Describe the running process."""
        process = self.process
        assert process is not None  # noqa: S101  # callers waited for it
        return Handshake(
            app_id=self.spec.app_id,
            deployment_id=self.spec.deployment_id,
            generation=self.spec.generation,
            pid=process.pid,
            protocol=process.protocol,
            methods=process.methods,
            capabilities=process.capabilities,
            started_at=process.started_at,
        )

    # --- state machine ---------------------------------------------------------------------

    def dispatch(self, event: states.Event) -> None:
        """Take an event, act, tell waiters and the host."""
        before = self.slot
        self.slot, actions = states.step(before, event, self._loop.time(), self._policy)
        for action in actions:
            self._act(action)
        if self.slot.alive:
            self._gone.clear()
        else:
            self._gone.set()
        self._tell_waiters()
        if self.slot != before:
            self._host.changed(self)

    def _act(self, action: states.Action) -> None:
        if isinstance(action, states.Spawn):
            self._failure = None
            self._task = self._loop.create_task(self._spawn())
        elif isinstance(action, states.RestartAfter):
            event = states.RestartDue()
            self._restart = self._loop.call_later(action.delay_s, self.dispatch, event)
        elif isinstance(action, states.CancelRestart):
            if self._restart is not None:
                self._restart.cancel()
        elif isinstance(action, states.Shutdown):
            self._begin_shutdown()
        elif isinstance(action, states.Log):
            self._log("system", action.message)
        elif isinstance(action, states.Refuse):
            self._failure = self._not_running()
        elif self._failure is None:
            text = f"worker did not start: {action.error}"
            self._failure = WorkerFailure(FailureKind.START_FAILED, text)

    def _tell_waiters(self) -> None:
        status = self.slot.status
        failure: WorkerFailure | None = None
        if status is AppStatus.CRASHED:
            failure = self._failure or self._not_running()
        elif status is AppStatus.STOPPED:
            failure = self._failure or WorkerFailure(FailureKind.STOPPED, "worker stopped")
        elif status is not AppStatus.RUNNING:
            return
        for waiter in self._waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(failure)

    def _not_running(self) -> WorkerFailure:
        text = f"worker for app '{self.spec.app_id}' is not running"
        return WorkerFailure(FailureKind.NOT_RUNNING, text)

    def _too_late(self) -> WorkerFailure:
        if self.waiting_for_room:
            return WorkerFailure(FailureKind.CAPACITY, "worker capacity exhausted")
        text = f"worker for app '{self.spec.app_id}' is not ready"
        return WorkerFailure(FailureKind.NOT_READY, text)

    # --- process ---------------------------------------------------------------------------

    async def _spawn(self) -> None:
        host, spec = self._host, self.spec
        try:
            command = await host.prepare(spec)
            self.waiting_for_room = True
            await host.reserve(self)
            self.waiting_for_room = False
            identity = host.identity(spec.app_id)
            folder = host.places.private_folder(spec.app_id, identity)
            env = process_environment(command.env, spec.credentials)
            process = AppProcess(spec, host.settings, self, folder)
            self.process = process
            await process.start(command, env, identity, host.launcher)
        except WorkerFailure as exc:
            self._spawn_failed(exc.message, exc)
        except (OSError, subprocess.SubprocessError) as exc:
            log.exception("app_spawn_failed", extra={"app_id": spec.app_id})
            reason = exc.strerror if isinstance(exc, OSError) else "the sandbox refused"
            self._spawn_failed(f"spawn failed: {reason}", None)
        except asyncio.CancelledError:
            self.process = None
            raise
        finally:
            self.waiting_for_room = False

    def _spawn_failed(self, error: str, failure: WorkerFailure | None) -> None:
        self.process = None
        self._failure = failure
        line = error if error.startswith("spawn failed") else f"spawn failed: {error}"
        self.dispatch(states.Exited(error, line))

    def _begin_shutdown(self) -> None:
        if self.process is not None and self.process.pid:
            self._task = self._loop.create_task(self.process.shutdown())
        elif self._task is not None:
            # Still unpacking or installing: there is no process to be asked.
            self._task.cancel()
            self._loop.call_soon(self.dispatch, states.Exited("stopped"))

    # --- ProcessListener -------------------------------------------------------------------

    def on_ready(self, process: Conversation) -> None:
        """Take calls from now on."""
        if process is self.process:
            self.dispatch(states.Ready())

    def on_start_ended(self, process: Conversation, call: str) -> None:
        """Tell the node that the start call is over."""
        self._host.start_call_ended(process.spec.app_id, call)

    def on_operation(self, process: Conversation, call: OpenCall, message: JSONObject) -> None:
        """Pass an operation on."""
        self._host.add_operation(process, call, message)

    def on_exit(self, process: Conversation, error: str, system_line: str) -> None:
        """Restart it, or not."""
        if process is self.process:
            self.process = None
            self.dispatch(states.Exited(error, system_line))

    def on_log(self, process: Conversation, level: str, message: str) -> None:
        """Take a log line."""
        self._host.add_log(process.spec.app_id, level, message, process.pid)

    def _log(self, level: str, message: str) -> None:
        pid = self.process.pid if self.process is not None else 0
        self._host.add_log(self.spec.app_id, level, message, pid)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.time())
