"""The state directory: marker, lock, passwords, ports and place of the server files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import EmbeddedError

STATE_FILE = "state.json"
FORMAT = 1
KNOWN_ENTRIES = frozenset({"config", "bundles", "environments", "files", "runtime", "node"})
SHARED_HOME = Path("/var/lib/trellis")
LOCK_TIMEOUT_S = 120.0
PORTS = range(20000, 32000)


@dataclass(frozen=True, slots=True)
class State:
    """What is chosen once and kept.

    Attributes:
        instance: random name of this installation, used where files lie outside.
        home: directory of the server files; the state directory unless the user that runs
            the servers cannot reach it.
        postgres_port: TCP port on 127.0.0.1; 0 when not chosen yet.
        redis_port: the same for the broker.
    """

    instance: str
    admin_password: str
    app_password: str
    redis_password: str
    home: str = ""
    postgres_port: int = 0
    redis_port: int = 0


class StateDirectory:
    """One directory with everything an installation keeps on disk."""

    def __init__(self, path: Path) -> None:
        """Open or create the directory.

        Raises:
            EmbeddedError: it is a file, cannot be written, or holds something foreign.
        """
        self.path = path.absolute()
        self._prepare()

    def _prepare(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o711)
            entries = {entry.name for entry in self.path.iterdir()}
        except (FileExistsError, NotADirectoryError):
            raise EmbeddedError(f"{self.path} is not a directory: choose another one.") from None
        except PermissionError:
            raise EmbeddedError(f"{self.path} cannot be created or read by this user.") from None
        ours = {name for name in entries if name in KNOWN_ENTRIES or name.startswith(".")}
        if STATE_FILE not in entries and entries - ours - {"state.lock"}:
            raise EmbeddedError(
                f"{self.path} is not empty and is not a data directory of Trellis: "
                "choose another one with --data-dir."
            )
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise EmbeddedError(f"{self.path} cannot be written by this user.")
        with self.lock():
            if not (self.path / STATE_FILE).exists():
                self.write(_new_state())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory's lock; start and stop of servers happen under it."""
        descriptor = os.open(self.path / "state.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"{self.path} is locked by another process for too long.")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> State:
        """Return the state.

        Raises:
            EmbeddedError: the state file is damaged or of a newer release.
        """
        file = self.path / STATE_FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise EmbeddedError(f"{file} was written by another release of Trellis.")
            return State(**content)
        except PermissionError:
            raise EmbeddedError(f"{file} belongs to another user.") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise EmbeddedError(f"{file} is damaged: restore it from a backup.") from None

    def write(self, state: State) -> None:
        """Replace the state file in one step; call it under the lock."""
        draft = self.path / f".{STATE_FILE}.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **asdict(state)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / STATE_FILE)

    def home(self, account: Account) -> Path:
        """Return the directory of the server files, choosing it at the first call.

        A data directory below, say, root's home cannot be entered by another user, and the
        modes of parents are not ours to change; the files then lie below ``/var/lib``.
        """
        state = self.read()
        if not state.home:
            self._open_to(account)
            home = self.path if account.can_enter(self.path) else SHARED_HOME / state.instance
            state = replace(state, home=str(home))
            self.write(state)
        home = self.path if state.home == str(self.path) else self._moved_home(Path(state.home))
        if home == self.path:
            self._open_to(account)
        return home

    def _moved_home(self, home: Path) -> Path:
        """Return a home outside; a state directory that was moved keeps its files inside."""
        if (self.path / "pg").is_dir() and not home.is_dir():
            self.write(replace(self.read(), home=str(self.path)))
            return self.path
        SHARED_HOME.mkdir(parents=True, exist_ok=True, mode=0o711)
        home.mkdir(exist_ok=True, mode=0o711)
        return home

    def _open_to(self, account: Account) -> None:
        mode = self.path.stat().st_mode & 0o777
        if account.switched and self.path.stat().st_uid == os.geteuid() and not mode & 0o001:
            self.path.chmod(mode | 0o011)

    def remove(self) -> None:
        """Delete the directory and server files outside of it; the servers must be stopped."""
        home = Path(self.read().home or self.path)
        if home != self.path:
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _new_state() -> State:
    return State(
        instance=secrets.token_hex(6),
        admin_password=secrets.token_hex(24),
        app_password=secrets.token_hex(24),
        redis_password=secrets.token_hex(24),
    )


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file; say whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a TCP port can be bound on a host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_port() -> int:
    """Return a free loopback port below the range that outgoing connections use."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if port_is_free(port):
            return port
    raise EmbeddedError("No free port was found on 127.0.0.1.")
