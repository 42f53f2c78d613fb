"""Log lines of all apps on their way to the node, in bounded memory.

Lines leave in batches a few milliseconds after they came. When the node is slow, lines over the
bound of an app are dropped and counted; the app itself never waits.

Source: contract part 30, section 8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from workers_runtime.node_protocol import Logs
from workers_runtime.protocol import JSON, MAX_MESSAGE_CHARS

FLUSH_AFTER_S = 0.005
RETRY_AFTER_S = 0.1
MAX_PENDING_PER_APP = 1000
MAX_BATCH = 500
LEVELS = frozenset({"debug", "info", "warn", "error", "stdout", "stderr", "system", "event"})


class LogSink:
    """Collects lines; must be used on the event loop."""

    def __init__(self, send: Callable[[Logs], None], congested: Callable[[], bool]) -> None:
        self._send = send
        self._congested = congested
        self._entries: list[list[JSON]] = []
        self._pending: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, app_id: str, level: str, message: str, pid: int = 0) -> None:
        """Take one line; it is cut at 8192 characters and may be dropped."""
        pending = self._pending.get(app_id, 0)
        if pending >= MAX_PENDING_PER_APP and level != "system":
            self._dropped[app_id] = self._dropped.get(app_id, 0) + 1
            return
        self._pending[app_id] = pending + 1
        self._entries.append([app_id, level, message[:MAX_MESSAGE_CHARS], time.time(), pid])
        if self._timer is None:
            self._schedule(FLUSH_AFTER_S)

    def flush(self) -> None:
        """Send what is there unless the node is slow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._congested():
            self._schedule(RETRY_AFTER_S)
            return
        now = time.time()
        for app_id, count in self._dropped.items():
            self._entries.append([app_id, "system", f"{count} log entries dropped", now, 0])
        entries, self._entries = self._entries, []
        self._pending.clear()
        self._dropped.clear()
        for start in range(0, len(entries), MAX_BATCH):
            self._send(Logs(entries=entries[start : start + MAX_BATCH]))

    def _schedule(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.flush)
