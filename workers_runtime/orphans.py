"""Processes that app code left behind: adopted, ended and reaped by an ancestor (Linux only).

A process group and a parent-death signal reach what app code started, unless that went into a
session of its own. So node, runtime and warm parent each adopt what loses its parent below them.

Standard library only and without imports of ours: the warm parent loads this file by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Collection

PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"
LIMIT_S = 0.5
PAUSE_S = 0.002
CONFINEMENT = re.compile(r"^(?:NoNewPrivs|Seccomp|Seccomp_filters):\s*(\d+)$", re.MULTILINE)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(ours: Collection[int]) -> None:
    """Forget adopted processes that have ended.

    Args:
        ours: children this process started itself and waits for.
    """
    for pid in _children():
        if pid not in ours and _status(pid, "State")[:1] == "Z":
            _reap(pid)


def end_orphans(
    ours: Collection[int] | None,
    *,
    user: int | None = None,
    settle_s: float = 0.0,
    limit_s: float = LIMIT_S,
) -> None:
    """Kill the adopted processes and all below them.

    Args:
        ours: children this process started itself; what is in a session of theirs stays too.
            None: it does not know them all; those more confined than itself are app code's.
        user: only those of this user id; None = of all.
        settle_s: wait for more until none came for this time.
        limit_s: give up after this time; the next call finds the rest.
    """
    own = _confinement("self")
    quiet_since = time.monotonic()
    until = quiet_since + limit_s
    while (now := time.monotonic()) < until:
        found = [pid for pid in _children() if _is_left(pid, ours, user, own)]
        if not found and now - quiet_since >= settle_s:
            return
        if found:
            quiet_since = now
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)
        # Their own children become ours with this.
        for pid in found:
            _reap(pid)


def _is_left(pid: int, ours: Collection[int] | None, user: int | None, own: list[int]) -> bool:
    if ours is None:
        theirs = _confinement(str(pid))
        return any(mine < other for mine, other in zip(own, theirs, strict=False))
    try:
        session = os.getsid(pid)
    except OSError:
        return False
    if pid in ours or session in ours:
        return False
    return user is None or _status(pid, "Uid").split()[:1] == [str(user)]


def _children() -> list[int]:
    """Return this process's children."""
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as handle:
                found += map(int, handle.read().split())
    except OSError:
        return []
    return found


def _confinement(process: str) -> list[int]:
    try:
        with open(f"/proc/{process}/status") as handle:
            return [int(value) for value in CONFINEMENT.findall(handle.read())]
    except OSError:
        return []


def _status(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/status") as handle:
            for line in handle:
                if line.startswith(f"{name}:"):
                    return line.partition(":")[2].strip()
    except OSError:
        return ""
    return ""


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
