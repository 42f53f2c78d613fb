"""The set of app processes of one node, driven by the node's commands."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import platform
import signal
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from config.runtime import RuntimeSettings
from workers_runtime.apps import App
from workers_runtime.bundles import Bundles
from workers_runtime.control import Control
from workers_runtime.conversation import Conversation
from workers_runtime.environments import Command, Environments
from workers_runtime.inflight import InFlight
from workers_runtime.launch import Launcher
from workers_runtime.logs import LogSink
from workers_runtime.node_protocol import (
    NODE_PROTOCOL_VERSION,
    Archive,
    Call,
    CallEnded,
    Discard,
    Done,
    EndCall,
    Ensure,
    GetStatus,
    Message,
    NeedArchive,
    Operation,
    OperationReply,
    Shutdown,
    Stop,
    Welcome,
    to_json,
)
from workers_runtime.opencalls import OpenCall
from workers_runtime.orphans import reap_orphans
from workers_runtime.places import Places
from workers_runtime.protocol import (
    JSON,
    AppSpec,
    AppStatus,
    FailureKind,
    JSONObject,
    WorkerFailure,
)
from workers_runtime.pruning import INTERVAL_S, prune
from workers_runtime.sandbox import Identities, Identity, Sandbox
from workers_runtime.worker import Worker

log = logging.getLogger(__name__)

IDLE_CHECK_S = 1.0
ARCHIVE_TIMEOUT_S = 60.0


class Runtime:
    """Apps, their processes, and the node's commands; implements ``Host``."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        places: Places,
        sandbox: Sandbox,
        identities: Identities | None,
        env: Mapping[str, str],
    ) -> None:
        """Prepare; blocking, see ``Environments``."""
        self.settings = settings
        self.places = places
        self.sandbox = sandbox
        self.ended = asyncio.Event()
        self._identities = identities
        self._bundles = Bundles(places)
        self._environments = Environments(places, sandbox, identities, settings, env)
        self.launcher = Launcher(sandbox)
        self._apps: dict[str, App] = {}
        self._ops: dict[int, tuple[Conversation, str]] = {}
        self._op_numbers = itertools.count(1)
        self._in_flight = InFlight(settings.rpc_timeout_s, self._room_may_be_free)
        self._archives: dict[int, asyncio.Future[Path]] = {}
        self._room = asyncio.Condition()
        self._room_wanted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.control = Control(
            on_connect=self._welcome,
            on_message=self._take,
            on_pressure=self._press,
            on_end=self.kill,
        )
        self._logs = LogSink(self.control.send, self.control.congested)

    # --- Host ------------------------------------------------------------------------------

    def identity(self, app_id: str) -> Identity | None:
        """Return the app's user, or None when the host is not root."""
        return self._identities.of(app_id) if self._identities is not None else None

    async def prepare(self, spec: AppSpec) -> Command:
        """Unpack the bundle and install dependencies, both at first use only.

        Raises:
            WorkerFailure: bad_archive, install_failed, runtime, or start_failed: the host's
                sandbox is weaker than the operator asks for.
        """
        refusal = self.sandbox.refusal()
        if refusal is not None:
            raise WorkerFailure(FailureKind.START_FAILED, f"worker did not start: {refusal}")
        identity = self.identity(spec.app_id)
        bundle = self._bundles.find(spec.app_id, spec.sha256)
        if bundle is None:
            archive = Path(spec.archive) if spec.archive else await self._fetch(spec)
            bundle = await asyncio.to_thread(
                self._bundles.unpack, spec.app_id, spec.sha256, archive, identity
            )
        return await self._environments.command(spec, bundle, identity)

    async def reserve(self, worker: Worker) -> None:
        """Wait until the node has room for the worker's process; stop the longest idle."""
        async with self._room:
            self._room_wanted += 1
            try:
                while self._live(worker) >= self.settings.procs_per_node:
                    self._evict(worker)
                    await self._room.wait()
            finally:
                self._room_wanted -= 1

    def add_log(self, app_id: str, level: str, message: str, pid: int) -> None:
        """Take a log line."""
        self._logs.add(app_id, level, message, pid)

    def add_operation(self, process: Conversation, call: OpenCall, message: JSONObject) -> None:
        """Pass an operation on to the node."""
        op = next(self._op_numbers)
        self._ops[op] = (process, call.token)
        process.track(call, op, message)
        self.control.send(
            Operation(
                op=op,
                app_id=process.spec.app_id,
                deployment_id=process.spec.deployment_id,
                pid=process.pid,
                call=call.token,
                kind=call.kind,
                message=message,
            )
        )

    def start_call_ended(self, app_id: str, call: str) -> None:
        """Tell the node that a start call is over."""
        self.control.send(CallEnded(app_id=app_id, call=call))

    def changed(self, worker: Worker) -> None:
        """Report the app's state and wake those who wait for room."""
        app = self._apps.get(worker.spec.app_id)
        if app is not None:
            app.changed(worker)
            self.control.send(app.state())
        self._room_may_be_free()

    # --- commands --------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        if isinstance(message, Call):
            self._call(message)
        elif isinstance(message, OperationReply):
            self._reply(message)
        elif isinstance(message, EndCall):
            self._in_flight.end(message)
        elif isinstance(message, Ensure):
            self._spawn(self._answer(message.seq, self._ensure(message)))
        elif isinstance(message, Stop):
            self._spawn(self._answer(message.seq, self._stop(message.app_id)))
        elif isinstance(message, Discard):
            self._discard(message)
        elif isinstance(message, GetStatus):
            rows = [to_json(app.state()) for app in self._apps.values()]
            self.control.send(Done(seq=message.seq, result=rows))
        elif isinstance(message, Archive):
            self._archive_came(message)
        elif isinstance(message, Shutdown):
            self._spawn(self._shutdown(message.seq))

    async def _answer(self, seq: int, work: Coroutine[Any, Any, JSON]) -> None:
        try:
            self.control.send(Done(seq=seq, result=await work))
        except WorkerFailure as exc:
            self._fail(seq, exc)
        except Exception as exc:
            self._broken(seq, exc)

    def _broken(self, seq: int, fault: Exception) -> None:
        log.error("runtime_command_failed", exc_info=fault)
        self._fail(seq, WorkerFailure(FailureKind.RUNTIME, "worker host error"))

    def _fail(self, seq: int, failure: WorkerFailure) -> None:
        self.control.send(Done(seq=seq, failure=failure.kind, error=failure.message))

    async def _ensure(self, message: Ensure) -> JSON:
        spec = message.spec
        app = self._apps.get(spec.app_id)
        if app is None:
            app = self._apps[spec.app_id] = App(spec.app_id, self)
        handshake = await app.ensure(
            spec, staged=message.staged, clear=message.clear, deadline=message.deadline
        )
        return to_json(handshake)

    def _call(self, message: Call) -> None:
        """Hand a call to the app's process; one that runs gets it before anything else happens."""
        app = self._apps.get(message.app_id)
        process = None if app is None else app.running(message.generation)
        if process is None:
            self._spawn(self._answer(message.seq, self._call_later(message)))
            return

        def answer(future: asyncio.Future[JSON]) -> None:
            failure = future.exception()
            if isinstance(failure, WorkerFailure):
                self._fail(message.seq, failure)
            else:
                self.control.send(Done(seq=message.seq, result=future.result()))

        try:
            self._in_flight.open(message, process).add_done_callback(answer)
        except Exception as exc:
            self._broken(message.seq, exc)

    async def _call_later(self, message: Call) -> JSON:
        app = self._apps.get(message.app_id)
        if app is None:
            text = f"app '{message.app_id}' must be ensured"
            raise WorkerFailure(FailureKind.UNKNOWN_APP, text)
        process = await app.route(message.generation).wait_running(message.deadline)
        return await self._in_flight.open(message, process)

    def _reply(self, message: OperationReply) -> None:
        process, token = self._ops.pop(message.op, (None, ""))
        if process is not None:
            process.answer(token, message.op, message.body)

    async def _stop(self, app_id: str) -> JSON:
        chosen = [app_id] if app_id else list(self._apps)
        apps = [self._apps[name] for name in chosen if name in self._apps]
        await asyncio.gather(*(app.stop() for app in apps))
        for app in apps:
            self.control.send(app.state())
            if self._apps.get(app.app_id) is app and not app.workers():
                del self._apps[app.app_id]
        return None

    def _discard(self, message: Discard) -> None:
        app = self._apps.get(message.app_id)
        if app is not None:
            app.discard()
        self.control.send(Done(seq=message.seq))

    async def _shutdown(self, seq: int) -> None:
        await self._stop("")
        self._logs.flush()
        self.control.send(Done(seq=seq))
        # One turn of the loop, so that the answer leaves before the program does.
        await asyncio.sleep(0.05)
        self.ended.set()

    def kill(self) -> None:
        """Kill every process group at once and end; the node is gone."""
        for worker in self._workers():
            if worker.process is not None and worker.process.pid:
                worker.process.signal_group(signal.SIGKILL)
        self.ended.set()

    # --- inside ----------------------------------------------------------------------------

    def _welcome(self) -> None:
        self.control.send(
            Welcome(
                protocol=NODE_PROTOCOL_VERSION,
                pid=os.getpid(),
                python=platform.python_version(),
                javascript=self._environments.has_javascript,
                sandbox=self.sandbox.report(),
            )
        )

    async def warm_up(self) -> None:
        """Start the warm parent of app processes."""
        self.launcher.warm_up(*await self._environments.warm_parent())

    async def watch_idle(self) -> None:
        """Stop processes that nobody called for a while, for ever."""
        while True:
            await asyncio.sleep(min(IDLE_CHECK_S, self.settings.idle_timeout_s / 4))
            for app in self._apps.values():
                app.stop_idle(self.settings.idle_timeout_s)
            self._forget_ended()
            reap_orphans(self.sandbox.started)

    async def tidy(self) -> None:
        """Remove what no process needs any more from the disk, for ever."""
        while True:
            used = {path for w in self._workers() if w.process for path in w.process.reads}
            used |= self._environments.shared
            await asyncio.to_thread(prune, self.places, used)
            await asyncio.sleep(INTERVAL_S)

    def _forget_ended(self) -> None:
        """Drop operations whose call ended before the node answered."""
        over = [op for op, (process, call) in self._ops.items() if not process.is_open(call)]
        for op in over:
            del self._ops[op]

    async def _fetch(self, spec: AppSpec) -> Path:
        seq = next(self._op_numbers)
        future: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._archives[seq] = future
        self.control.send(
            NeedArchive(
                seq=seq,
                app_id=spec.app_id,
                deployment_id=spec.deployment_id,
                sha256=spec.sha256,
            )
        )
        try:
            async with asyncio.timeout(ARCHIVE_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise WorkerFailure(FailureKind.RUNTIME, "the archive did not arrive") from None
        finally:
            self._archives.pop(seq, None)

    def _archive_came(self, message: Archive) -> None:
        future = self._archives.get(message.seq)
        if future is None or future.done():
            return
        if message.error:
            text = f"the archive could not be read: {message.error}"
            future.set_exception(WorkerFailure(FailureKind.RUNTIME, text))
        else:
            future.set_result(Path(message.path))

    def _workers(self) -> list[Worker]:
        return [worker for app in self._apps.values() for worker in app.workers()]

    def _live(self, other_than: Worker) -> int:
        """Count processes; a worker that still waits for room has none."""
        return sum(
            worker.process is not None and worker is not other_than for worker in self._workers()
        )

    def _evict(self, other_than: Worker) -> None:
        idle = [
            (process.last_used, app)
            for app in self._apps.values()
            if (process := app.idle_process()) is not None
            and process.spec.app_id != other_than.spec.app_id
        ]
        stopping = any(worker.status is AppStatus.STOPPING for worker in self._workers())
        if idle and not stopping:
            min(idle, key=lambda pair: pair[0])[1].stop_idle(0.0)

    def _room_may_be_free(self) -> None:
        if self._room_wanted:
            self._spawn(self._wake())

    async def _wake(self) -> None:
        async with self._room:
            self._room.notify_all()

    def _press(self, slow: bool) -> None:
        for worker in self._workers():
            if worker.process is not None and worker.process.pid:
                (worker.process.pause if slow else worker.process.resume)()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
