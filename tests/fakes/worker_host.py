"""A node without a runtime: handlers are Python functions on threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from app.core.actor import Actor
from app.workers.service import CallOutcome, OutcomeKind
from workers_runtime.protocol import CallKind

Handler = Callable[[dict[str, Any], Actor | None], Any]


class FakeHost:
    """Implements ``WorkerHost``; ``block`` holds every handler until ``unblock``."""

    node = "fake@host"

    def __init__(self, handler: Handler | None = None) -> None:
        self.handler = handler or (lambda message, actor: None)
        self.calls: list[tuple[str, dict[str, Any], Actor | None]] = []
        self.running = 0
        self.most_running = 0
        self._gate = threading.Event()
        self._gate.set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(64)

    def block(self) -> None:
        self._gate.clear()

    def unblock(self) -> None:
        self._gate.set()

    def call(
        self,
        app_id: str,
        kind: CallKind,
        message: dict[str, Any],
        *,
        actor: Actor | None,
        lifetime_s: float | None = None,
    ) -> Future[CallOutcome]:
        with self._lock:
            self.calls.append((app_id, message, actor))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        return self._pool.submit(self._run, message, actor)

    def _run(self, message: dict[str, Any], actor: Actor | None) -> CallOutcome:
        self._gate.wait(30)
        try:
            value = self.handler(message, actor)
        except Exception as exc:
            value = CallOutcome(ok=False, error=str(exc), kind=OutcomeKind.HANDLER_ERROR)
        finally:
            with self._lock:
                self.running -= 1
        return value if isinstance(value, CallOutcome) else CallOutcome(ok=True, value=value)

    def ids(self) -> list[int]:
        """Return the ids of the jobs that were handed over, in order."""
        return [int(message["id"]) for _, message, _ in self.calls]

    def close(self) -> None:
        self.unblock()
        self._pool.shutdown()
