"""Handing calls to the runtime; an app it does not know yet is made known first.

No thread waits for a call: its end arrives on the runtime client's link thread.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future
from typing import Final

import structlog

from app.workers.host import CallOutcome
from tasks.calls import CallRegister, OpenCall
from tasks.homes import Homes
from tasks.outcomes import outcome_of
from workers_runtime.client import RuntimeClient
from workers_runtime.protocol import JSON, FailureKind, JSONObject, WorkerFailure

log = structlog.get_logger(__name__)

NOT_READY: Final = "not ready"


class _Attempt:
    """A call on its way: tried once, and once more after the runtime was told about the app."""

    def __init__(
        self, call: OpenCall, message: JSONObject, generation: int, lifetime_s: float | None
    ) -> None:
        self.call = call
        self.message = message
        self.generation = generation
        self.lifetime_s = lifetime_s
        self.deadline = None if lifetime_s is None else time.time() + lifetime_s
        self.ended: Future[CallOutcome] = Future()
        self.ended.set_running_or_notify_cancel()
        self.again = False


class Handover:
    """The calls of one node on their way to the runtime and back. Thread-safe.

    Args:
        control: runs what tells the runtime about an app.
        cleanups: runs what a call leaves to be cleaned up.
    """

    def __init__(
        self,
        client: RuntimeClient,
        homes: Homes,
        calls: CallRegister,
        *,
        control: Executor,
        cleanups: Executor,
    ) -> None:
        self._client = client
        self._homes = homes
        self._calls = calls
        self._control = control
        self._cleanups = cleanups
        self._lock = threading.Lock()
        self._ensuring: dict[str, list[_Attempt]] = {}

    def send(
        self, call: OpenCall, message: JSONObject, *, generation: int, lifetime_s: float | None
    ) -> Future[CallOutcome]:
        """Open a call and hand it over; the future never raises.

        Args:
            call: the call.
            message: what the process is told, caller included.
            generation: lowest generation of the app that may serve it.
            lifetime_s: seconds until it ends as ``timeout``; None = no limit.
        """
        self._calls.add(call)
        attempt = _Attempt(call, message, generation, lifetime_s)
        self._try(attempt)
        return attempt.ended

    def end(self, token: str) -> None:
        """Close a call; its cleanups may wait for Postgres, so they run elsewhere."""
        call = self._calls.peek(token)
        if call is None:
            return
        if not call.cleanups:
            self._calls.end(token)
            return
        call.over = True
        try:
            self._cleanups.submit(self._calls.end, token)
        except RuntimeError:
            # The node ends and takes no more work; what is open is closed with it.
            self._calls.end(token)

    def _try(self, attempt: _Attempt) -> None:
        call = attempt.call
        future = self._client.call(
            call.app_id,
            kind=call.kind,
            call=call.token,
            message=attempt.message,
            deadline=attempt.deadline,
            generation=attempt.generation,
        )
        future.add_done_callback(lambda done: self._tried(attempt, done))

    def _tried(self, attempt: _Attempt, done: Future[JSON]) -> None:
        exc = done.exception()
        if exc is None:
            self._finish(attempt, CallOutcome(ok=True, value=done.result()))
            return
        unknown = isinstance(exc, WorkerFailure) and exc.kind is FailureKind.UNKNOWN_APP
        if unknown and not attempt.again:
            attempt.again = True
            self._ensure_then_try(attempt)
            return
        if unknown:
            exc = WorkerFailure(FailureKind.NOT_READY, NOT_READY)
        self._fail(attempt, exc)

    def _finish(self, attempt: _Attempt, outcome: CallOutcome) -> None:
        self.end(attempt.call.token)
        attempt.ended.set_result(outcome)

    def _fail(self, attempt: _Attempt, exc: BaseException) -> None:
        call = attempt.call
        self._finish(attempt, outcome_of(call.app_id, call.kind, exc, attempt.lifetime_s))

    def _ensure_then_try(self, attempt: _Attempt) -> None:
        """Tell the runtime about the app, once for all calls that wait for it."""
        app_id = attempt.call.app_id
        with self._lock:
            waiting = self._ensuring.setdefault(app_id, [])
            waiting.append(attempt)
            if len(waiting) > 1:
                return
        try:
            self._control.submit(self._ensure, app_id)
        except RuntimeError:
            self._fail_waiting(app_id, WorkerFailure(FailureKind.STOPPED, "worker stopped"))

    def _ensure(self, app_id: str) -> None:
        try:
            self._homes.ensure(app_id)
        except WorkerFailure as exc:
            self._fail_waiting(app_id, exc)
            return
        except Exception:
            log.exception("ensure_failed", app_id=app_id)
            self._fail_waiting(app_id, WorkerFailure(FailureKind.NOT_READY, NOT_READY))
            return
        for attempt in self._take_waiting(app_id):
            self._try(attempt)

    def _take_waiting(self, app_id: str) -> list[_Attempt]:
        with self._lock:
            return self._ensuring.pop(app_id, [])

    def _fail_waiting(self, app_id: str, exc: WorkerFailure) -> None:
        for attempt in self._take_waiting(app_id):
            self._fail(attempt, exc)
