"""The node's side of the runtime: start it, keep it alive, call it. Thread-safe.

A node makes one ``RuntimeClient`` and calls ``start``. Every command returns a
``concurrent.futures.Future`` at once, so no thread waits per call; results, operations, states
and log lines arrive on the client's link thread, where handlers must only hand them on.

A future fails with ``WorkerFailure``, whose ``kind`` says which contract error it is.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from config.runtime import runtime_environment
from workers_runtime.link import RuntimeLink
from workers_runtime.node_protocol import (
    MAX_NODE_LINE_BYTES,
    Archive,
    Call,
    CallEnded,
    Discard,
    Done,
    EndCall,
    Ensure,
    GetStatus,
    Logs,
    Message,
    NeedArchive,
    Operation,
    OperationReply,
    Shutdown,
    Stop,
    Welcome,
    app_state_from_json,
    encode,
    handshake_from_json,
)
from workers_runtime.protocol import (
    JSON,
    AppSpec,
    AppState,
    CallKind,
    FailureKind,
    Handshake,
    JSONObject,
    LogEntry,
    WorkerFailure,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_STEP_S = 0.2

Reply = Callable[[JSONObject], None]
"""Answers one operation with the fields of contract part 30, 4.2 (``result``, ``error``, ...)."""


def _ignore(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeHandlers:
    """What the node does with messages of its runtime.

    All but ``fetch_archive`` run on the link thread and must return at once.

    Attributes:
        fetch_archive: (app_id, deployment_id) -> path of the stored archive, readable by the
            runtime; runs on a thread of the client's pool and may raise.
        on_operation: an app process asks for something; ``reply`` may be called once, later and
            from any thread. ``agent_chunk`` and ``agent_session_compacted`` need no reply.
        on_logs: log lines of all apps, in order of arrival.
        on_state: an app changed its state.
        on_call_ended: (app_id, call) a start call is over: forget its identity.
        on_up: a runtime is connected; it knows no app yet.
        on_down: it is gone with all its processes; open futures have failed.
    """

    fetch_archive: Callable[[str, str], Path]
    on_operation: Callable[[Operation, Reply], None]
    on_logs: Callable[[list[LogEntry]], None] = _ignore
    on_state: Callable[[AppState], None] = _ignore
    on_call_ended: Callable[[str, str], None] = _ignore
    on_up: Callable[[Welcome], None] = _ignore
    on_down: Callable[[], None] = _ignore


@dataclass(slots=True)
class _Pending:
    """A command without its answer yet."""

    future: Future[Any]  # Any: the result's type depends on the command
    convert: Callable[[Any], Any] = field(default=lambda value: value)  # Any: as above


class RuntimeClient:
    """One node's runtime: a child process that is restarted when it dies."""

    def __init__(
        self, *, state_dir: Path, env: Mapping[str, str], handlers: RuntimeHandlers
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            state_dir: folder for bundles, environments and the socket; made if missing.
            env: the node's environment; only what ``config.runtime`` lists reaches the runtime.
            handlers: see ``RuntimeHandlers``.
        """
        self._handlers = handlers
        self._pending: dict[int, _Pending] = {}
        self._lock = threading.Lock()
        self._seq = itertools.count(1)
        self._epoch = 0
        self._stopping = False
        self._up = threading.Event()
        self._held = threading.local()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="runtime-archive")
        self._link = RuntimeLink(
            state_dir=state_dir,
            env=runtime_environment(env),
            on_message=self._dispatch,
            on_idle=self._probe,
            on_down=self._went_down,
        )

    # --- life ------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the runtime without waiting for it; again is a no-op."""
        self._link.start()

    def start(self, timeout_s: float = 15.0, *, meanwhile: Callable[[], None] = _ignore) -> None:
        """Start the runtime and wait until it is connected; again is a no-op.

        Args:
            timeout_s: how long to wait.
            meanwhile: called again and again; what it raises ends the waiting.

        Raises:
            RuntimeError: it did not come up in time (it is still being tried).
        """
        self.launch()
        until = time.monotonic() + timeout_s
        while not self._up.wait(min(WAIT_STEP_S, max(0.0, until - time.monotonic()))):
            meanwhile()
            if time.monotonic() >= until:
                raise RuntimeError("the runtime did not start")

    def stop(self, timeout_s: float = 15.0) -> None:
        """Stop every app in order (shutdown, TERM, KILL), then the runtime; idempotent."""
        self._stopping = True
        with contextlib.suppress(WorkerFailure, TimeoutError):
            self._command(lambda seq: Shutdown(seq=seq)).result(timeout_s)
        self._link.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def connected(self) -> bool:
        """Whether a runtime is connected now."""
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        """Process id of the runtime, or None."""
        return self._link.pid

    @property
    def epoch(self) -> int:
        """Number of runtimes connected so far; a new one knows nothing of the apps."""
        return self._epoch

    # --- commands --------------------------------------------------------------------------

    def ensure(
        self,
        spec: AppSpec,
        *,
        staged: bool = False,
        clear: bool = False,
        deadline: float | None = None,
    ) -> Future[Handshake]:
        """Have a process of this spec running. Idempotent by (deployment_id, generation).

        Another deployment or a higher generation starts beside the running process, takes over
        after its handshake, and the old one is drained. If it fails the old one stays.

        Args:
            spec: the app as Postgres has it.
            staged: start it beside the old one but do not take over; ``ensure`` without
                ``staged`` promotes it, ``discard`` or 120 s stop it.
            clear: forget earlier crashes (start, deploy); a failing first start is final.
            deadline: Unix time; default: as long as install and handshake may take.

        Returns:
            Future of the handshake; fails with kind start_failed, install_failed, bad_archive,
            not_running (crashed, cooling down), capacity, stopped.
        """
        return self._command(
            lambda seq: Ensure(seq=seq, spec=spec, staged=staged, clear=clear, deadline=deadline),
            handshake_from_json,
        )

    def discard(self, app_id: str) -> Future[None]:
        """Stop a staged process; nothing happens if there is none."""
        return self._command(lambda seq: Discard(seq=seq, app_id=app_id))

    def call(
        self,
        app_id: str,
        *,
        kind: CallKind,
        call: str,
        message: JSONObject,
        deadline: float | None = None,
        generation: int = 0,
    ) -> Future[JSON]:
        """Hand one call to the app's process, starting it from its last spec if needed.

        Args:
            app_id: whose process.
            kind: rpc, job or agent_invoke.
            call: token of the call, 128 random bits in hex; names it in ``on_operation``.
            message: fields of contract part 30, 4.2 without ``type`` and ``call``: for rpc
                ``method, params, caller`` (``id`` is made up if missing), for job ``id, payload,
                caller, meta``, for agent_invoke ``invoke_id, session_id, message, history``...
            deadline: Unix time; None = no limit.
            generation: lowest generation that may serve it; an older spec is ``unknown_app``.

        Returns:
            Future of the handler's result (agent: ``{"response", "tokens"}``). Fails with any
            kind; ``unknown_app`` means: call ``ensure`` with the spec and try again.
        """
        return self._command(
            lambda seq: Call(
                seq=seq,
                app_id=app_id,
                kind=kind,
                call=call,
                message=message,
                deadline=deadline,
                generation=generation,
            )
        )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send what this thread sends inside the block in one piece, which wakes the runtime once."""
        lines: list[bytes] = []
        epoch = self._epoch
        self._held.lines = lines
        try:
            yield
        finally:
            self._held.lines = None
            # What a runtime was meant to get that is gone has failed with it.
            if lines and self._epoch == epoch:
                self._link.send(b"".join(lines))

    def end_call(self, call: str, error: str) -> None:
        """End an open call now: its future fails with kind ``ended``, late answers are dropped."""
        self._send(EndCall(call=call, error=error))

    def stop_app(self, app_id: str) -> Future[None]:
        """Stop the app's processes and forget its spec; done when all are gone."""
        return self._command(lambda seq: Stop(seq=seq, app_id=app_id))

    def stop_all(self) -> Future[None]:
        """Stop every app as ``stop_app`` does; the runtime stays."""
        return self._command(lambda seq: Stop(seq=seq))

    def status(self) -> Future[list[AppState]]:
        """Return the state of every app the runtime knows."""
        return self._command(
            lambda seq: GetStatus(seq=seq), lambda rows: [app_state_from_json(r) for r in rows]
        )

    # --- inside ----------------------------------------------------------------------------

    def _command(
        self,
        make: Callable[[int], Message],
        convert: Callable[[Any], T] = lambda value: value,  # Any: JSON of the answer
    ) -> Future[T]:
        seq = next(self._seq)
        future: Future[T] = Future()
        line = encode(make(seq))
        if len(line) > MAX_NODE_LINE_BYTES:
            future.set_exception(WorkerFailure(FailureKind.TOO_LARGE, "message too large"))
            return future
        with self._lock:
            self._pending[seq] = _Pending(future, convert)
            up = self._up.is_set()
        if not (up and self._put(line)):
            with self._lock:
                owned = self._pending.pop(seq, None)
            # If it is gone, the link thread has already failed it.
            if owned is not None:
                text = "the worker host is starting"
                future.set_exception(WorkerFailure(FailureKind.NOT_READY, text))
        return future

    def _send(self, message: Message) -> None:
        self._link.send(encode(message))

    def _put(self, line: bytes) -> bool:
        lines: list[bytes] | None = getattr(self._held, "lines", None)
        if lines is None:
            return self._link.send(line)
        lines.append(line)
        return True

    def _probe(self) -> None:
        """Ask for a sign of life; the answer itself is dropped."""
        self._send(GetStatus(seq=0))

    def _dispatch(self, message: Message) -> None:
        handlers = self._handlers
        if isinstance(message, Done):
            self._settle(message)
        elif isinstance(message, Operation):
            handlers.on_operation(message, self._replier(message.op))
        elif isinstance(message, Logs):
            handlers.on_logs(
                [
                    LogEntry(app_id=app_id, level=level, message=text, ts=ts, pid=pid)
                    for app_id, level, text, ts, pid in message.entries
                ]
            )
        elif isinstance(message, AppState):
            handlers.on_state(message)
        elif isinstance(message, CallEnded):
            handlers.on_call_ended(message.app_id, message.call)
        elif isinstance(message, NeedArchive):
            self._pool.submit(self._fetch_archive, message)
        elif isinstance(message, Welcome):
            self._epoch += 1
            self._up.set()
            handlers.on_up(message)

    def _settle(self, message: Done) -> None:
        with self._lock:
            pending = self._pending.pop(message.seq, None)
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        if message.failure:
            failure = WorkerFailure(FailureKind(message.failure), message.error)
            pending.future.set_exception(failure)
        else:
            pending.future.set_result(pending.convert(message.result))

    def _replier(self, op: int) -> Reply:
        epoch = self._epoch

        def reply(body: JSONObject) -> None:
            # Operation numbers begin anew with a new runtime.
            if self._epoch == epoch:
                self._send(OperationReply(op=op, body=body))

        return reply

    def _fetch_archive(self, message: NeedArchive) -> None:
        try:
            path = self._handlers.fetch_archive(message.app_id, message.deployment_id)
            answer = Archive(seq=message.seq, path=str(path))
        except Exception as exc:
            log.exception("archive_fetch_failed", extra={"app_id": message.app_id})
            answer = Archive(seq=message.seq, error=str(exc) or type(exc).__name__)
        self._send(answer)

    def _went_down(self) -> None:
        with self._lock:
            was_up = self._up.is_set()
            self._up.clear()
            lost, self._pending = list(self._pending.values()), {}
        kind, text = FailureKind.CRASHED, "worker crashed"
        if self._stopping:
            kind, text = FailureKind.STOPPED, "worker stopped"
        for pending in lost:
            if pending.future.set_running_or_notify_cancel():
                pending.future.set_exception(WorkerFailure(kind, text))
        if was_up:
            self._handlers.on_down()
