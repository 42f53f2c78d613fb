"""Daemon threads for ``def`` handlers, made as they are needed.

Not ``concurrent.futures``: its threads keep a process alive that has a stuck handler.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Pool:
    """Runs functions on at most ``size`` threads; excess waits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run a function that handles its own errors."""
        with self._lock:
            self._busy += 1
            grow = self._threads < self._size and self._busy > self._threads
            self._threads += grow
        self._queue.put(work)
        if grow:
            threading.Thread(target=self._serve, name="trellis-handler", daemon=True).start()

    def _serve(self) -> None:
        while True:
            work = self._queue.get()
            try:
                work()
            finally:
                with self._lock:
                    self._busy -= 1
            # A waiting thread must not keep the last call's arguments alive.
            del work
