"""The operating system's side of supervision: subreaper, orphans, leftovers."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_GRACE_S = 5.0


def adopt_orphans() -> None:
    """Make processes whose parent dies our children, so that none can escape (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def orphans(known: Iterable[int]) -> list[psutil.Process]:
    """Return our direct children that we did not start.

    Args:
        known: process ids we did start.
    """
    ours = set(known)
    return [child for child in psutil.Process().children() if child.pid not in ours]


def end_orphan(process: psutil.Process, *, force: bool) -> None:
    """End an orphan and its process group, reaping it when it is dead already."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        if process.status() == psutil.STATUS_ZOMBIE:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
            return
        number = signal.SIGKILL if force else signal.SIGTERM
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def kill_tree(pid: int) -> None:
    """Kill a process, its descendants and its process group."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class ChildRegister:
    """A file that names the running children, for whoever comes after a crash."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def record(self, pids: Iterable[int]) -> None:
        """Write down the children that run now."""
        entries = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                entries.append([pid, psutil.Process(pid).create_time()])
        draft = self._file.with_name(f".{self._file.name}.new")
        draft.write_text(json.dumps(entries), encoding="utf-8")
        draft.replace(self._file)

    def end_leftovers(self) -> int:
        """End children of a supervisor that was killed; return how many there were."""
        family = self._leftovers()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _wait_for_end(family)
        for process in filter(_runs, family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_for_end(family)
        self._file.unlink(missing_ok=True)
        return len(family)

    def _leftovers(self) -> list[psutil.Process]:
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return []
        family: dict[int, psutil.Process] = {}
        for pid, created in entries:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() == created:
                    found = [process, *process.children(recursive=True)]
                    family |= {member.pid: member for member in found}
        return list(family.values())


def _wait_for_end(family: list[psutil.Process]) -> None:
    """Wait a while until none runs; init may never bury those that have ended."""
    deadline = time.monotonic() + LEFTOVER_GRACE_S
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
