"""What a node writes to Redis: answers and log lines, many per round trip.

One thread writes; a lone answer is written by whoever has it.

Everything here may be lost without harm: whoever waits for an answer watches the node, and log
lines are best effort. So a Redis that is away costs a batch, never a blocked node.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.core.replies import LIST_TTL_S, TAKEN, Reply
from app.core.wire import Command, Wire
from app.workers import logs
from tasks.shortcut import Shortcut
from workers_runtime.protocol import LogEntry

log = structlog.get_logger(__name__)

BATCH: Final = 500
TELL_AFTER_S: Final = 0.25
ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Answer:
    reply_to: str
    make: Callable[[], Reply]


@dataclass(frozen=True, slots=True)
class _Drop:
    app_id: str


_Item = _Answer | LogEntry | _Drop | None


class Outgoing:
    """The writing thread. ``node`` is the name, ``identity`` is ``name/boot``."""

    def __init__(self, wire: Wire, *, node: str, identity: str, log_buffer: int) -> None:
        self.identity = identity
        self._wire = wire
        self._node = node
        self._log_buffer = log_buffer
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._shortcut = Shortcut()
        self._open: dict[str, tuple[str, float]] = {}
        self._numbers: dict[str, int] = defaultdict(int)
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="node-outgoing", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write what waits and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def take(self, reply_to: str, question: str) -> None:
        """Note that this node works on a question; the asker is told if it takes long."""
        with self._lock:
            self._open[question] = (reply_to, time.monotonic() + TELL_AFTER_S)

    def tell(self, reply_to: str, question: str) -> None:
        """Tell the asker at once that this node works on a question."""
        self.answer(reply_to, question, lambda: Reply(question, self.identity, TAKEN))

    def answer(self, reply_to: str, question: str, make: Callable[[], Reply]) -> None:
        """Send an answer; ``make`` runs on the thread that writes it."""
        with self._lock:
            self._open.pop(question, None)
            lone = not self._open
        item = _Answer(reply_to, make)
        if not (lone and self._write_here(item)):
            self._queue.put(item)

    def _write_here(self, item: _Answer) -> bool:
        """Write an answer unless something else is being written or Redis is slow."""
        busy = not (self._shortcut.open and self._queue.empty())
        if busy or not self._writing.acquire(blocking=False):
            return False
        try:
            answers = {item.reply_to: [item.make().encode()]}
            self._shortcut.measure(self._send, answers, [])
        except (RedisError, OSError):
            return False
        finally:
            self._writing.release()
        return True

    def log_lines(self, entries: list[LogEntry]) -> None:
        """Append lines to the apps' logs."""
        for entry in entries:
            self._queue.put(entry)

    def drop_log(self, app_id: str) -> None:
        """Delete an app's log, after the lines handed over so far."""
        self._queue.put(_Drop(app_id))

    def _run(self) -> None:
        while True:
            batch, ended = self._batch()
            try:
                with self._writing:
                    self._shortcut.measure(self._write, batch)
            except Exception:
                # The thread serves the whole node; a bug in one item must not end it.
                log.exception("outgoing_failed")
            if ended:
                return

    def _batch(self) -> tuple[list[_Item], bool]:
        items: list[_Item] = []
        try:
            item = self._queue.get(timeout=TELL_AFTER_S)
            while item is not None:
                items.append(item)
                if len(items) == BATCH:
                    break
                item = self._queue.get_nowait()
            ended = item is None
        except queue.Empty:
            ended = False
        return items + self._slow(), ended

    def _slow(self) -> list[_Item]:
        """Return the notices for questions that take long."""
        now = time.monotonic()
        if now - self._told_at < TELL_AFTER_S:
            return []
        self._told_at = now
        with self._lock:
            slow = [(q, to) for q, (to, due) in self._open.items() if due <= now]
            for question, _ in slow:
                del self._open[question]
        return [_Answer(to, lambda q=q: Reply(q, self.identity, TAKEN)) for q, to in slow]  # type: ignore[misc]

    def _write(self, items: list[_Item]) -> None:
        if not items:
            return
        answers: dict[str, list[bytes]] = defaultdict(list)
        lines: list[LogEntry | _Drop] = []
        for item in items:
            if isinstance(item, _Answer):
                answers[item.reply_to].append(item.make().encode())
            elif item is not None:
                lines.append(item)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._send(answers, lines)
            except (RedisError, OSError) as exc:
                if attempt == ATTEMPTS:
                    log.warning("outgoing_lost", items=len(items), reason=type(exc).__name__)
                continue
            return

    def _send(self, answers: Mapping[str, list[bytes]], lines: list[LogEntry | _Drop]) -> None:
        commands: list[Command] = []
        for reply_to, elements in answers.items():
            commands.append(("RPUSH", reply_to, *elements))
            commands.append(("EXPIRE", reply_to, LIST_TTL_S))
        for line in lines:
            key = logs.KEY_PREFIX + line.app_id
            if isinstance(line, _Drop):
                commands.append(("DEL", key))
                continue
            self._numbers[line.app_id] += 1
            number = f"{self.identity}:{self._numbers[line.app_id]}"
            fields = logs.fields_of(line, node=self._node, number=number)
            pairs = (text for pair in fields.items() for text in pair)
            commands.append(("XADD", key, "MAXLEN", self._log_buffer, "*", *pairs))
        keys = {logs.KEY_PREFIX + line.app_id for line in lines}
        commands += [("EXPIRE", key, logs.TTL_S) for key in keys]
        self._wire.send(*commands)
