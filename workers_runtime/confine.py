"""What a process does to itself before app code runs in it; none of it can be undone.

Standard library only and without imports of ours: the warm parent loads this file by its path.

Source: prctl(2), landlock(7), seccomp(2); ADR 0011.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import stat
import struct
import sys
from typing import TypedDict

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION, CAPABILITIES = 0x20080522, 64
SECCOMP_MODE_FILTER = 2

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
ASK_VERSION = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
READING = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
# Signals and abstract Unix sockets reach only processes of the same app.
SCOPED = 0b11
ACCESS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
NEWEST_ACCESS = (1 << 16) - 1

# Resolved once, in the parent: between fork and exec nothing may be loaded.
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PRCTL = LIBC.prctl if LIBC is not None else None


class Terms(TypedDict):
    """What ``restrict`` takes away; JSON, for it travels to the warm parent.

    Attributes:
        memory: bytes of private writable memory. Not of address space: JavaScript engines and
            allocators reserve gigabytes of that.
        files: open files.
        processes: processes of this user, 0 = no limit of ours.
        landlock: version of Landlock to use, 0 = none.
        reads: with Landlock, what may be read and executed, folders with all below.
        writes: likewise, what may be changed too.
        seccomp: system-call filter in hex, see ``seccomp.filter_program``; empty = none.
        hidden: keep other processes of the same user out of /proc/<pid>.
    """

    memory: int
    files: int
    processes: int
    landlock: int
    reads: list[str]
    writes: list[str]
    seccomp: str
    hidden: bool


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


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


def give_up_new_rights() -> None:
    """Have programs run from here gain no rights, whatever their files say (Linux only)."""
    if PRCTL is not None:
        PRCTL(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def hide() -> None:
    """Close this process's memory and environment to others of the same user (Linux only)."""
    if PRCTL is not None:
        PRCTL(PR_SET_DUMPABLE, 0, 0, 0, 0)


def restrict(parent_pid: int, terms: Terms) -> None:
    """Take away from this process what app code must not have.

    Call it after the change of user, which would undo the death signal.

    Args:
        parent_pid: process to die with.
        terms: what to take away.

    Raises:
        OSError: the kernel refused; the process must not run app code.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (terms["files"], terms["files"]))
    resource.setrlimit(resource.RLIMIT_DATA, (terms["memory"], terms["memory"]))
    if terms["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (terms["processes"], terms["processes"]))
    die_with_parent(parent_pid)
    if PRCTL is None:
        return
    give_up_new_rights()
    if os.geteuid() == 0:
        drop_capabilities()
    PRCTL(PR_SET_DUMPABLE, 0 if terms["hidden"] else 1, 0, 0, 0)
    if terms["landlock"]:
        confine_files(terms["landlock"], terms["reads"], terms["writes"])
    if terms["seccomp"]:
        filter_calls(bytes.fromhex(terms["seccomp"]))


def become(uid: int, gid: int) -> None:
    """Change to an unprivileged user for good; root only."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up what makes root special, for this thread and what it starts.

    Raises:
        OSError: the kernel refused.
    """
    assert LIBC is not None  # noqa: S101  # called on Linux only
    assert PRCTL is not None  # noqa: S101  # as above
    PRCTL(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(CAPABILITIES):
        PRCTL(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if LIBC.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def landlock_version() -> int:
    """Return the version of Landlock this kernel offers, 0 = none."""
    try:
        return _system_call(LANDLOCK_CREATE_RULESET, None, 0, ASK_VERSION)
    except OSError:
        return 0


def confine_files(version: int, reads: list[str], writes: list[str]) -> None:
    """Forbid every file but these, and signals and abstract sockets to others (version 6).

    Raises:
        OSError: the kernel refused.
    """
    handled = ACCESS_OF_ABI.get(version, NEWEST_ACCESS)
    words = 1 if version < 4 else 2 if version < 6 else 3
    attributes = struct.pack("=QQQ", handled, 0, SCOPED)[: 8 * words]
    ruleset = _system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    writing = handled & ~(MAKE_CHAR | MAKE_BLOCK)
    for paths, access in ((reads, READING), (writes, writing)):
        for path in paths:
            _allow(ruleset, path, access)
    _system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def filter_calls(program: bytes) -> None:
    """Install a system-call filter.

    Raises:
        OSError: the kernel refused.
    """
    assert PRCTL is not None  # noqa: S101  # there is a filter only on Linux
    described = _Program(len(program) // 8, program)
    if PRCTL(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _allow(ruleset: int, path: str, access: int) -> None:
    """Add a rule; what does not exist, or is closed to this user anyway, needs none."""
    with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                access &= OF_FILES
            rule = struct.pack("=Qi", access, handle)
            _system_call(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(handle)


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    if LIBC is None:
        raise OSError("not Linux")
    wide = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result: int = LIBC.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
