"""Runs ``trellis up`` as a person would, and reads its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

TRELLIS = Path(sys.executable).with_name("trellis")
SERVER_VARIABLES = ("DATABASE_URL", "REDIS_URL", "PORT", "HOST", "TRELLIS_DATA_DIR", "APP_ENV")


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what would configure a platform."""
    given = os.environ.items()
    env = {k: v for k, v in given if k not in SERVER_VARIABLES}
    return env | dict(extra or {})


class Up:
    """One ``trellis`` process and everything below it."""

    def __init__(self, arguments: Sequence[object], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(TRELLIS), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_env(env),
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def log(self) -> str:
        """Return everything that was printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 60) -> None:
        """Wait until a text was printed a number of times."""
        self.wait_until(lambda: self.log.count(text) >= times, timeout_s, f"'{text}' x {times}")

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for a condition, failing with the log when it does not come."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = self.process.poll() is not None and not self._reader.is_alive()
            if time.monotonic() > deadline or (ended and not condition()):
                raise AssertionError(f"no {what} in:\n{self.log}")
            time.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        """Return all processes below this one."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Send a signal, wait for the end and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.end(timeout_s)

    def end(self, timeout_s: float = 60) -> int:
        """Wait for the end and return the exit code."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.log}") from None
        self._reader.join(5)
        assert self.process.stdout is not None
        if not self._reader.is_alive():
            self.process.stdout.close()
        return code

    def destroy(self) -> None:
        """Kill whatever is left; for the end of a failed test."""
        if self.process.poll() is None:
            for process in [*self.children(), psutil.Process(self.process.pid)]:
                if process.is_running():
                    process.kill()
        self.end()


def gone(processes: Sequence[psutil.Process], timeout_s: float = 10) -> bool:
    """Wait until none of the processes runs any more; say whether that came true."""
    deadline = time.monotonic() + timeout_s
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
