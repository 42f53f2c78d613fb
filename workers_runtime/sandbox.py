"""What an app process may do: user, privileges, limits, environment.

Each protection is applied where the host allows it, and ``Sandbox.report`` lists what is on.

Source: contract part 30, 4.7 and 14.4.
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
from workers_runtime.confine import PRCTL, restrict

CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID = 0, 5, 6, 7
INSTALL_MEMORY = 4 * 1024 * 1024 * 1024

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
LINUX = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Identity:
    """The user an app process runs as."""

    uid: int
    gid: int


class Sandbox:
    """Protections of the app processes of one runtime."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self.drops_uid = _can_change_user(settings)

    def report(self) -> list[str]:
        """Return the names of the protections that are on."""
        names = ["process-group", "rlimits", "clean-environment"]
        if PRCTL is not None:
            names += ["no-new-privs", "parent-death"]
        if self.drops_uid:
            names.append("uid")
        return sorted(names)

    def limits(self, identity: Identity | None) -> dict[str, int]:
        """Return the keywords of ``confine.restrict`` for an app process."""
        return {
            "memory": self._settings.memory_mb * 1024 * 1024,
            "files": 1024,
            # Counted per user, so it is only fair where each app has its own.
            "processes": 0 if identity is None else 512,
        }

    def spawn_options(self, identity: Identity | None) -> dict[str, Any]:  # Any: Popen's keywords
        """Return the keywords of ``subprocess.Popen`` that put a child into the sandbox.

        Args:
            identity: user to change to; None = stay (the host does not run as root).
        """
        options: dict[str, Any] = {
            "close_fds": True,
            "start_new_session": True,
            "umask": 0o077,
            # Runs in the child, after the change of user.
            "preexec_fn": partial(restrict, os.getpid(), **self.limits(identity)),
        }
        if identity is not None:
            options |= {"user": identity.uid, "group": identity.gid, "extra_groups": []}
        return options

    def install_options(self, identity: Identity | None) -> dict[str, Any]:  # Any: as above
        """Return the keywords for a dependency install: as an app, but with room to build."""
        limits = {"memory": INSTALL_MEMORY, "files": 4096, "processes": 0}
        return self.spawn_options(identity) | {
            "umask": 0o022,
            "preexec_fn": partial(restrict, os.getpid(), **limits),
        }


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
