"""What a process does to itself before app code runs in it: limits, no new rights, death signal.

Standard library only and without imports of ours: the warm parent loads this file by its path.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

# Resolved once, in the parent: between fork and exec nothing may be loaded.
PRCTL = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent(parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent dies (Linux only).

    Args:
        parent_pid: the expected parent; if it is gone already the process ends at once.
        signum: the signal.
    """
    if PRCTL is None:
        return
    PRCTL(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def restrict(parent_pid: int, *, memory: int, files: int, processes: int) -> None:
    """Take away from this process what app code must not have; cannot be undone.

    Call it after the change of user, which would undo the death signal.

    Args:
        parent_pid: process to die with.
        memory: bytes of private writable memory. Not of address space: JavaScript engines and
            allocators reserve gigabytes of that.
        files: open files.
        processes: processes of this user, 0 = no limit of ours.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if PRCTL is not None:
        PRCTL(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with_parent(parent_pid)


def become(uid: int, gid: int) -> None:
    """Change to an unprivileged user for good; root only."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if PRCTL is not None:
        # The change of user closed /proc/self to its own process.
        PRCTL(PR_SET_DUMPABLE, 1, 0, 0, 0)
