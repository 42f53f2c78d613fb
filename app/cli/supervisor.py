"""Run the processes of a Procfile: one log, restart with back-off, stop in order."""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from honcho.colour import get_colours
from honcho.printer import Message, Printer
from honcho.process import Process

from app.cli import processes

LIFELINE = Path(__file__).with_name("lifeline.py")
BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0
STABLE_S = 10.0
TICK_S = 0.04
SWEEP_S = 1.0
SYSTEM = "trellis"


@dataclass(frozen=True, slots=True)
class Role:
    """One line of the Procfile.

    Attributes:
        stage: roles of a lower stage are stopped first.
        grace_s: seconds from SIGTERM to SIGKILL.
        delay_s: seconds to wait before the first start.
    """

    name: str
    command: str
    stage: int = 0
    grace_s: float = 10.0
    delay_s: float = 0.0


@dataclass(slots=True)
class Child:
    """A role and its running process, if any."""

    role: Role
    colour: str
    pid: int | None = None
    started_at: float = 0.0
    failures: int = 0
    start_at: float | None = 0.0
    stop_by: float | None = None
    thread: threading.Thread | None = field(default=None, repr=False)


def backoff_s(failures: int) -> float:
    """Return the seconds to wait before the next start; ``failures`` counts from 1."""
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 16), BACKOFF_MOST_S))


class Supervisor:
    """Keeps the processes of a Procfile running until it is told to stop.

    Every process gets a prefix in one log. One that ends is started again, later each time it
    fails at once. SIGTERM, SIGINT or SIGHUP stop everything stage by stage; a second signal
    does not wait.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        cwd: Path,
        register: processes.ChildRegister,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            roles: what to run.
            cwd: working directory of the processes.
            register: notes the running processes for the time after a crash.
        """
        self._children = [
            Child(role, colour) for role, colour in zip(roles, get_colours(), strict=False)
        ]
        self._env: dict[str, str] = {}
        self._cwd = cwd
        self._register = register
        self._foreign: Callable[[], Iterable[int] | None] = tuple
        self._on_tick: Callable[[], None] = _nothing
        self._events: queue.Queue[Message] = queue.Queue()
        self._printer = Printer(sys.stdout)
        self._printer.width = max(len(SYSTEM), *(len(role.name) for role in roles))
        self._signals = 0
        self._next_sweep = 0.0
        self._sightings: dict[int, int] = {}

    def say(self, text: str) -> None:
        """Put a line of our own into the log; safe from any thread."""
        self._events.put(Message("line", f"{text}\n", _now(), SYSTEM, None))

    def request_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask for the stop; usable as a signal handler."""
        self._signals += 1

    def catch_signals(self) -> None:
        """Make the stop signals of this process a request to stop."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.request_stop)

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._signals > 0

    def run_once(self, role: Role, env: Mapping[str, str]) -> int:
        """Run one command to its end and return its exit code; a stop request ends it."""
        self._env = dict(env)
        child = Child(role, next(get_colours()))
        self._start(child)
        thread = child.thread
        assert thread is not None  # noqa: S101 -- _start() made it
        code: int | None = None
        while code is None:
            message = self._next_message()
            if message is not None and message.type == "stop":
                code = int(message.data["returncode"])
            elif message is not None and message.type == "start":
                child.pid = int(message.data["pid"])
            elif message is not None:
                self._print(message)
            if self.stopping and child.pid is not None:
                _signal(child.pid, signal.SIGTERM)
        thread.join()
        return code

    def run(
        self,
        env: Mapping[str, str],
        *,
        foreign: Callable[[], Iterable[int] | None] = tuple,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        """Run until a stop is asked for, then stop everything.

        Args:
            env: whole environment of the processes.
            foreign: ids of other children of this process that are not orphans, or None
                while that is unknown.
            on_tick: called about 25 times a second.
        """
        self._env = dict(env)
        self._foreign = foreign
        self._on_tick = on_tick or _nothing
        for child in self._children:
            child.start_at = time.monotonic() + child.role.delay_s
        processes.adopt_orphans()
        while not self.stopping:
            self._start_due()
            self._turn()
        self._stop_all()

    def _turn(self) -> None:
        message = self._next_message()
        while message is not None:
            self._handle(message)
            message = self._next_message(wait=False)
        self._on_tick()
        self._sweep()

    def _next_message(self, *, wait: bool = True) -> Message | None:
        try:
            return self._events.get(block=wait, timeout=TICK_S)
        except queue.Empty:
            return None

    def _handle(self, message: Message) -> None:
        if message.type == "line":
            self._print(message)
            return
        child = next(child for child in self._children if child.role.name == message.name)
        if message.type == "start":
            child.pid = int(message.data["pid"])
            self._note_children()
        else:
            self._ended(child, int(message.data["returncode"]))

    def _ended(self, child: Child, code: int) -> None:
        child.pid = None
        self._note_children()
        if self.stopping:
            self._report(f"{child.role.name} stopped")
            return
        lived = time.monotonic() - child.started_at
        child.failures = 1 if lived > STABLE_S else child.failures + 1
        delay = backoff_s(child.failures)
        child.start_at = time.monotonic() + delay
        self._report(f"{child.role.name} ended with {_cause(code)}; next start in {delay:g} s")

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.start_at is not None and child.start_at <= now:
                self._start(child)

    def _start(self, child: Child) -> None:
        """Start a process; its thread lives as long as it does, as the lifeline needs."""
        words = [sys.executable, "-I", "-S", str(LIFELINE), str(os.getpid())]
        process = Process(
            f"exec {shlex.join(words)} {child.role.command}",
            name=child.role.name,
            colour=child.colour,
            env=self._env,
            cwd=str(self._cwd),
        )
        child.start_at = None
        child.started_at = time.monotonic()
        child.thread = threading.Thread(
            target=process.run, args=(self._events,), name=child.role.name, daemon=True
        )
        child.thread.start()

    def _stop_all(self) -> None:
        self._report("Stopping")
        for stage in sorted({child.role.stage for child in self._children}):
            members = [child for child in self._children if child.role.stage == stage]
            for child in members:
                self._ask_to_end(child)
            while any(_busy(child) for child in members):
                self._turn()
                self._force_late(members)
        self._end_orphans()

    def _ask_to_end(self, child: Child) -> None:
        while _busy(child) and child.pid is None:
            self._turn()
        child.start_at = None
        child.stop_by = time.monotonic() + child.role.grace_s
        if child.pid is not None:
            _signal(child.pid, signal.SIGTERM)

    def _force_late(self, members: Sequence[Child]) -> None:
        for child in members:
            late = child.stop_by is not None and time.monotonic() > child.stop_by
            if child.pid is not None and (late or self._signals > 1):
                self._report(f"{child.role.name} does not stop; it is killed")
                processes.kill_tree(child.pid)
                child.stop_by = None

    def _sweep(self) -> None:
        """End processes whose parent died: asked at the second sight, forced at the sixth."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        foreign = self._foreign()
        starting = any(_busy(child) and child.pid is None for child in self._children)
        if foreign is None or starting:
            return
        self._next_sweep = now + SWEEP_S
        seen = self._sightings
        self._sightings = {}
        for orphan in processes.orphans([*self._pids(), *foreign]):
            times = self._sightings[orphan.pid] = seen.get(orphan.pid, 0) + 1
            if times > 1:
                processes.end_orphan(orphan, force=times > 5)

    def _end_orphans(self) -> None:
        deadline = time.monotonic() + 5
        while (foreign := self._foreign()) is not None:
            found = processes.orphans([*self._pids(), *foreign])
            if not found:
                return
            for orphan in found:
                processes.end_orphan(orphan, force=time.monotonic() > deadline)
            time.sleep(0.05)

    def _pids(self) -> list[int]:
        return [child.pid for child in self._children if child.pid is not None]

    def _note_children(self) -> None:
        self._register.record(self._pids())

    def _report(self, text: str) -> None:
        self._print(Message("line", f"{text}\n", _now(), SYSTEM, None))

    def _print(self, message: Message) -> None:
        # The reader of our output may be gone; the processes must be stopped in order anyway.
        with contextlib.suppress(OSError, ValueError):
            self._printer.write(message)


def _busy(child: Child) -> bool:
    return child.thread is not None and (child.thread.is_alive() or child.pid is not None)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _nothing() -> None:
    return


def _now() -> datetime.datetime:
    return datetime.datetime.now()  # noqa: DTZ005 -- the log shows local time
