"""What an app process may do: user, files, system calls, limits, environment.

Each protection is applied where the host allows it, and ``Sandbox.report`` lists what is on.

Source: contract part 30, 4.7 and 14.4; ADR 0011.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from config.runtime import RuntimeSettings
from workers_runtime import confine
from workers_runtime.confine import Terms
from workers_runtime.seccomp import filter_program

CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID = 0, 5, 6, 7
INSTALL_MEMORY = 4 * 1024 * 1024 * 1024

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
LINUX = sys.platform == "linux"
SCOPES_SINCE = 6
# The kernel counts per user, threads too; a user that is shared has all of the node's.
OWN_PROCESSES, SHARED_PROCESSES = 512, 8192

LEVELS: Mapping[str, tuple[set[str], ...]] = {
    "strict": ({"uid", "seccomp", "landlock"}, {"seccomp", "landlock", "signal-scope"}),
    "isolated": ({"uid"},),
    "basic": ({"no-new-privs"},),
    "none": (set(),),
}
"""Levels of protection from strong to weak; any of the sets makes the level.

isolated: apps reach neither each other nor the platform. strict: nor other files and much of
the kernel. Without users of their own nothing less than all of it isolates them.
"""

SYSTEM_READS = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/proc", "/sys"),
    *("/run/systemd/resolve", "/run/resolvconf"),
)
SHARED_ETC = tuple(
    f"/etc/{name}"
    for name in (
        *("alternatives", "ca-certificates", "crypto-policies", "fonts", "pki", "ssl", "terminfo"),
        *("debian_version", "gai.conf", "group", "host.conf", "hostname", "hosts", "inputrc"),
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "locale.alias"),
        *("localtime", "lsb-release", "machine-id", "mime.types", "networks", "nsswitch.conf"),
        *("os-release", "passwd", "protocols", "resolv.conf", "services", "timezone"),
    )
)
"""Of /etc, when apps have the user of the node: it may have been given secrets of its own there."""
SYSTEM_WRITES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Identity:
    """The user an app process runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Files a process needs besides those of the system.

    Attributes:
        reads: may be read and executed, folders with all below.
        writes: may be changed too.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()


class Sandbox:
    """Protections of the app processes of one runtime.

    Attributes:
        drops_uid: each app has a user of its own.
        started: processes this runtime started and waits for, to tell orphans from them.
    """

    def __init__(self, settings: RuntimeSettings) -> None:
        """Find out what the host allows; blocking."""
        self._settings = settings
        self.started: set[int] = set()
        self.drops_uid = _can_change_user(settings)
        self._landlock = confine.landlock_version()
        program = filter_program(shared_user=not self.drops_uid) if LINUX else None
        self._seccomp = program.hex() if program is not None else ""
        # What a container's own filter refuses shows only when it is tried.
        if not _works(self._terms(Reach(), self._seccomp)):
            self._landlock = 0
        if not _works(self._terms(None, self._seccomp)):
            self._seccomp = ""

    def report(self) -> list[str]:
        """Return the names of the protections that are on."""
        on = {
            "process-group": True,
            "rlimits": True,
            "clean-environment": True,
            "no-new-privs": LINUX,
            "parent-death": LINUX,
            "uid": self.drops_uid,
            "landlock": self._landlock > 0,
            "signal-scope": self._landlock >= SCOPES_SINCE,
            "seccomp": bool(self._seccomp),
        }
        return sorted(name for name, is_on in on.items() if is_on)

    @property
    def level(self) -> str:
        """Strongest of ``LEVELS`` whose protections are all on."""
        on = set(self.report())
        return next(level for level, choices in LEVELS.items() if any(on >= c for c in choices))

    def refusal(self) -> str | None:
        """Return why no app code may run here, or None."""
        ranks = list(LEVELS)
        if ranks.index(self.level) <= ranks.index(self._settings.sandbox_floor):
            return None
        return (
            f"this host's sandbox is '{self.level}', "
            f"WORKER_SANDBOX_FLOOR asks for '{self._settings.sandbox_floor}'"
        )

    def terms(self, identity: Identity | None, reach: Reach | None) -> Terms:
        """Return the terms of ``confine.restrict`` for an app process.

        Args:
            identity: its user; None = ours.
            reach: its files; None = it is a program we trust and that only shows a version.
        """
        terms = self._terms(reach, self._seccomp)
        terms["processes"] = OWN_PROCESSES if identity is not None else SHARED_PROCESSES
        return terms

    def _terms(self, reach: Reach | None, seccomp: str) -> Terms:
        shared = not self.drops_uid
        system = SYSTEM_READS + (SHARED_ETC if shared else ("/etc",))
        devices = SYSTEM_WRITES + (() if shared else ("/dev/shm",))  # noqa: S108  # closed to other users by its sticky bit
        return Terms(
            memory=self._settings.memory_mb * 1024 * 1024,
            files=1024,
            processes=0,
            landlock=self._landlock if reach is not None else 0,
            reads=[*system, *map(str, reach.reads if reach else ())],
            writes=[*devices, *map(str, reach.writes if reach else ())],
            seccomp=seccomp,
            hidden=shared and not self._landlock,
        )

    def spawn_options(
        self, identity: Identity | None, reach: Reach | None
    ) -> dict[str, Any]:  # Any: Popen's keywords
        """Return the keywords of ``subprocess.Popen`` that put a child into the sandbox.

        Args:
            identity: user to change to; None = stay (the host does not run as root).
            reach: see ``terms``.
        """
        return _options(identity, self.terms(identity, reach)) | {"umask": 0o077}

    def install_options(
        self, identity: Identity | None, reach: Reach
    ) -> dict[str, Any]:  # Any: as above
        """Return the keywords for a dependency install: as an app, but with room to build."""
        terms = self.terms(identity, reach)
        terms["memory"], terms["files"], terms["processes"] = INSTALL_MEMORY, 4096, 0
        return _options(identity, terms) | {"umask": 0o022}


def _options(identity: Identity | None, terms: Terms) -> dict[str, Any]:  # Any: Popen's keywords
    options: dict[str, Any] = {
        "close_fds": True,
        "start_new_session": True,
        # Runs in the child, after the change of user.
        "preexec_fn": partial(confine.restrict, os.getpid(), terms),
    }
    if identity is not None:
        options |= {"user": identity.uid, "group": identity.gid, "extra_groups": []}
    return options


def _works(terms: Terms) -> bool:
    """Say whether a child of ours can accept these terms."""
    ours = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            confine.restrict(ours, terms)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _can_change_user(settings: RuntimeSettings) -> bool:
    """Say whether this process may become, own files for and signal the worker users."""
    if os.geteuid() != 0:
        return False
    if not LINUX:
        return True
    needed = (CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID)
    try:
        status = Path("/proc/self/status").read_text()
        maps = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    except OSError:
        return False
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    if any(not effective >> cap & 1 for cap in needed):
        return False
    last = settings.uid_base + settings.uid_count
    return all(_maps(text, settings.uid_base, last) for text in maps)


def _maps(text: str, first: int, last: int) -> bool:
    """Say whether one range of a user-namespace map covers these ids."""
    ranges = [tuple(map(int, line.split())) for line in text.splitlines()]
    return any(start <= first and last < start + count for start, _, count in ranges)


class Identities:
    """One stable user id per app, kept in a file so that files keep their owner."""

    def __init__(self, path: Path, settings: RuntimeSettings) -> None:
        self._path = path
        self._base = settings.uid_base
        self._count = settings.uid_count

    @property
    def installer(self) -> Identity:
        """User of dependency installs; no app has it."""
        return Identity(self._base + self._count, self._base + self._count)

    def of(self, app_id: str) -> Identity:
        """Return the app's user, choosing a free one at first.

        Locks: the file, for runtimes that share a state directory.
        """
        with self._path.open("a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            known = self._parse(handle.read())
            uid = known.get(app_id)
            if uid is None or not 0 <= uid - self._base < self._count:
                uid = known[app_id] = self._free(app_id, set(known.values()))
                handle.truncate(0)
                handle.write(json.dumps(known))
        return Identity(uid, uid)

    @staticmethod
    def _parse(text: str) -> dict[str, int]:
        try:
            return dict(json.loads(text or "{}"))
        except ValueError:
            # A write cut off by a crash; the hash gives most apps their old user again.
            return {}

    def _free(self, app_id: str, taken: set[int]) -> int:
        first = zlib.crc32(app_id.encode()) % self._count
        for step in range(self._count):
            uid = self._base + (first + step) % self._count
            if uid not in taken:
                return uid
        # More apps than users: share, as the range is what the operator gave us.
        return self._base + first


def reachable_by_others(path: Path) -> bool:
    """Say whether every folder above a path may be entered by any user."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def process_environment(base: Mapping[str, str], credentials: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of an app process from empty.

    Args:
        base: the names of contract part 30, 4.7; secrets cannot override them.
        credentials: platform and app secrets; a name no shell could hold stays out.
    """
    secrets = {name: value for name, value in credentials.items() if _allowed(name, value)}
    return {**secrets, **base}


def _allowed(name: str, value: str) -> bool:
    dangerous = name.startswith(("LD_", "DYLD_", "TRELLIS_", "ROOTCX_"))
    return bool(SECRET_NAME.match(name)) and not dangerous and "\0" not in value
