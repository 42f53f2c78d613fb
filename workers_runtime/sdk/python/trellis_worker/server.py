"""Serves the host's messages: one call after the other in, each on a thread or the event loop."""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial

from trellis_worker.context import Context, Session
from trellis_worker.errors import Reject, Retry, WorkerError
from trellis_worker.pool import Pool
from trellis_worker.values import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from trellis_worker.agent import AgentRun
    from trellis_worker.aio import Loop
    from trellis_worker.context import BaseContext
    from trellis_worker.output import LogStream
    from trellis_worker.registry import Handlers
    from trellis_worker.shape import Handler
    from trellis_worker.wire import Message, Wire

SHUTDOWN_WAIT_S = 4.0


class JobRun:
    """A job handler whose ``Retry`` and ``Reject`` are answers, not failures."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.is_async = handler.is_async

    def __call__(self, *args: object) -> Any:  # Any: the handler's result, or an awaitable of it
        """Run the handler."""
        try:
            result = self._handler(*args)
        except (Retry, Reject) as exc:
            return {"$job": exc.order}
        return self._finish(result) if hasattr(result, "__await__") else result

    @staticmethod
    async def _finish(result: Any) -> Any:  # Any: an awaitable and its result
        try:
            return await result
        except (Retry, Reject) as exc:
            return {"$job": exc.order}


class Server:
    """The app's side of the protocol."""

    def __init__(self, wire: Wire, handlers: Handlers, stream: LogStream) -> None:
        self._wire = wire
        self._handlers = handlers
        self._stream = stream
        self._pool = Pool(handlers.max_concurrency)
        self._session = Session(wire, {})
        self._early: list[Message] | None = []
        self._lock = threading.Lock()
        self._open = 0
        self._idle = threading.Condition(self._lock)
        self._asyncio: Loop | None = None
        self._stopping = False

    def serve(self) -> NoReturn:
        """Shake hands and serve until the host says ``shutdown`` or is gone."""
        capabilities = ["agent"] if self._handlers.hook("agent") is not None else []
        self._wire.send(
            {
                "type": "discover",
                "protocol": 2,
                "methods": list(self._handlers.rpc),
                "capabilities": capabilities,
            }
        )
        for message in self._wire.messages():
            if not self._wire.take_answer(message):
                self._take(message)
        os._exit(0 if self._stopping else 1)

    def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind in {"rpc", "job", "agent_invoke"}:
            self._call(message)
        elif kind == "discover":
            self._discover(message)
        elif kind == "shutdown" and not self._stopping:
            self._stopping = True
            threading.Thread(target=self._shutdown, name="trellis-shutdown", daemon=True).start()

    # --- start and end ---------------------------------------------------------------------

    def _discover(self, message: Message) -> None:
        limits = message.get("limits") or {}
        self._wire.max_line_bytes = limits.get("max_line_bytes", self._wire.max_line_bytes)
        self._wire.call_timeout_s = limits.get("call_timeout_ms", 30000) / 1000
        self._session = Session(self._wire, message)
        handler = self._handlers.hook("on_start")
        if handler is None or not message.get("run_onstart"):
            self._started(None, None)
            return
        ctx = self._context(handler.is_async, message)
        self._run(handler, (ctx,), ctx, "on_start", self._started)

    def _started(self, _result: object, error: str | None) -> None:
        """End the start call and let in the calls that came meanwhile."""
        self._wire.send({"type": "started", **({"error": error} if error else {})})
        with self._lock:
            early, self._early = self._early, None
        for message in early or []:
            self._call(message)

    def _shutdown(self) -> NoReturn:
        handler = self._handlers.hook("on_shutdown")
        deadline = time.monotonic() + SHUTDOWN_WAIT_S
        if handler is not None:
            self._hook(handler, "on_shutdown")
        with self._idle:
            while self._open and (left := deadline - time.monotonic()) > 0:
                self._idle.wait(left)
        import atexit

        atexit._run_exitfuncs()
        self._stream.finish()
        sys.stderr.flush()
        os._exit(0)

    def _hook(self, handler: Handler, where: str, *args: object) -> None:
        """Run a hook that has no call of its own."""
        try:
            result = handler(*args)
            if hasattr(result, "__await__"):
                self._event_loop().wait(result)
        except Exception as exc:
            self._log_traceback(exc, where)

    # --- calls -----------------------------------------------------------------------------

    def _call(self, message: Message) -> None:
        with self._lock:
            if self._early is not None:
                # on_start comes before the first call.
                self._early.append(message)
                return
        kind = message["type"]
        if kind == "rpc":
            self._rpc(message)
        elif kind == "job":
            self._job(message)
        else:
            self._agent(message)

    def _rpc(self, message: Message) -> None:
        name = str(message.get("method"))
        handler = self._handlers.rpc.get(name)
        answer = partial(self._answer, {"type": "rpc_response", "id": message["id"]})
        if handler is None:
            answer(None, f"unknown method: {name}")
            return
        ctx = self._context(handler.is_async, message)
        args = (message.get("params"), ctx._caller, ctx)
        self._run(handler, args, ctx, f"rpc {name}", answer)

    def _job(self, message: Message) -> None:
        handler = self._handlers.hook("on_job")
        # Two deliveries of a job may run at a time; the token tells them apart.
        head = {"type": "job_result", "id": message["id"], "call": message.get("call")}
        answer = partial(self._answer, head)
        if handler is None:
            self._log("warn", f"job {message['id']} ignored: no on_job handler")
            answer(None, None)
            return
        ctx = self._context(handler.is_async, message)
        work = JobRun(handler)
        self._run(work, (message.get("payload"), ctx._caller, ctx), ctx, "job", answer)

    def _agent(self, message: Message) -> None:
        from trellis_worker.agent import AgentRun

        handler = self._handlers.hook("agent")
        answer = partial(self._answer_agent, {"invoke_id": message["invoke_id"]})
        if handler is None:
            answer(None, "this worker has no agent handler")
            return
        ctx = self._context(handler.is_async, message)
        run = AgentRun(self._wire, handler)
        self._run(run, (Record(message), ctx), ctx, "agent", answer)

    def _answer(self, head: Message, result: object, error: str | None) -> None:
        self._wire.answer({**head, "error": error} if error else {**head, "result": result})

    def _answer_agent(self, head: Message, result: Any, error: str | None) -> None:
        if error:
            self._wire.answer({"type": "agent_error", **head, "error": error})
        else:
            self._wire.answer({"type": "agent_done", **head, **result})

    def _run(
        self,
        handler: Handler | AgentRun | JobRun,
        args: tuple[object, ...],
        ctx: BaseContext,
        where: str,
        answer: Callable[[Any, str | None], None],
    ) -> None:
        """Run a handler where it belongs and answer its call.

        Args:
            handler: the app's function.
            args: what it is offered.
            ctx: its context, dead afterwards.
            where: names the handler in logs.
            answer: (result, error text or None).
        """
        with self._lock:
            self._open += 1
        if handler.is_async:
            self._event_loop().submit(self._run_async(handler, args, ctx, where, answer))
        else:
            self._pool.submit(lambda: self._run_sync(handler, args, ctx, where, answer))

    def _run_sync(
        self,
        handler: Handler | AgentRun | JobRun,
        args: tuple[object, ...],
        ctx: BaseContext,
        where: str,
        answer: Callable[[Any, str | None], None],
    ) -> None:
        result, error = None, None
        try:
            result = handler(*args)
            if hasattr(result, "__await__"):
                result = self._event_loop().wait(result)
        except BaseException as exc:
            error = self._report(exc, where)
        self._end(ctx, answer, result, error)

    async def _run_async(
        self,
        handler: Handler | AgentRun | JobRun,
        args: tuple[object, ...],
        ctx: BaseContext,
        where: str,
        answer: Callable[[Any, str | None], None],
    ) -> None:
        result, error = None, None
        try:
            result = await handler(*args)
        except BaseException as exc:
            error = self._report(exc, where)
        self._end(ctx, answer, result, error)

    def _end(
        self,
        ctx: BaseContext,
        answer: Callable[[Any, str | None], None],
        result: object,
        error: str | None,
    ) -> None:
        """End a call: first its ctx, then its answer."""
        ctx._end()
        try:
            answer(result, error)
        finally:
            with self._idle:
                self._open -= 1
                self._idle.notify_all()

    def _context(self, is_async: bool, message: Message) -> BaseContext:
        caller = message.get("caller")
        options: dict[str, Any] = {
            "caller": Record(caller) if caller is not None else None,
            "job": message if message["type"] == "job" else None,
            "invoke_id": message.get("invoke_id"),
        }
        token = str(message.get("call"))
        if is_async:
            from trellis_worker.aio import AsyncContext

            return AsyncContext(self._session, token, **options)
        return Context(self._session, token, **options)

    def _event_loop(self) -> Loop:
        with self._lock:
            if self._asyncio is None:
                from trellis_worker.aio import Loop

                self._asyncio = Loop()
            return self._asyncio

    # --- failures --------------------------------------------------------------------------

    def _report(self, exc: BaseException, where: str) -> str:
        """Log a handler's failure, tell ``on_error``; returns the text for the caller."""
        if not isinstance(exc, WorkerError):
            self._log_traceback(exc, where)
        handler = self._handlers.hook("on_error")
        if handler is not None:
            self._hook(handler, "on_error", exc, where)
        return str(exc) or type(exc).__name__

    def _log_traceback(self, exc: BaseException, where: str) -> None:
        import traceback

        text = "".join(traceback.format_exception(exc)).rstrip()
        self._log("error", f"{where} failed: {text[-8000:]}")

    def _log(self, level: str, text: str) -> None:
        self._wire.send({"type": "log", "level": level, "message": text[:8192]})
