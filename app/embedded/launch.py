"""Start, find and end server processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from app.embedded.account import Account
from app.embedded.errors import EmbeddedError

LOG_LIMIT_BYTES = 10 * 1024 * 1024
READY_TIMEOUT_S = 60.0
POLL_S = 0.01


class _LongLived(subprocess.Popen[bytes]):
    """A child that may outlive its handle, so dropping the handle is no mistake to warn about."""

    def __del__(self) -> None:
        if self.returncode is not None:
            super().__del__()


class ServerProcess:
    """A running server, started by us or adopted by its process id."""

    def __init__(self, process: psutil.Process, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = process.pid
        self._process = process
        self._child = child

    @classmethod
    def spawn(
        cls,
        command: Sequence[str | Path],
        *,
        account: Account,
        log: Path,
        cwd: Path,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Start a server in its own session, so that a terminal's Ctrl-C does not reach it.

        Args:
            command: program and arguments.
            account: the user it runs as.
            log: file that its output is added to.
            cwd: its working directory.
            stdin: text it reads from its standard input.
            env: its whole environment; without one it gets hardly any.
        """
        with _open_log(log) as output:
            child = _LongLived(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env) if env is not None else {"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,
                **account.popen_options(),
            )
        assert child.stdin is not None  # noqa: S101 -- stdin is a pipe, see above
        try:
            child.stdin.write(stdin.encode())
            child.stdin.close()
        except BrokenPipeError:
            pass  # The server died at once; whoever waits for it reads its log.
        return cls(psutil.Process(child.pid), child)

    @classmethod
    def adopt(cls, pid: int, names: Sequence[str], cwd: Path) -> ServerProcess | None:
        """Return a running server by its process id, or None when the id is another program's.

        Args:
            pid: the process id that a file of the server names.
            names: program names that count as the server.
            cwd: the working directory that makes it ours.
        """
        try:
            process = psutil.Process(pid)
            known = process.name() in names and process.status() != psutil.STATUS_ZOMBIE
            if known and Path(process.cwd()).resolve() == cwd.resolve():
                return cls(process, None)
        except (psutil.Error, OSError):
            return None
        return None

    def alive(self) -> bool:
        """Say whether the server runs; a dead child is reaped."""
        if self._child is not None:
            return self._child.poll() is None
        # It may be a child whose handle was dropped; waiting for another's child does nothing.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE

    def signal(self, number: int) -> None:
        """Send a signal; a server that is gone already is fine."""
        try:
            if self.alive():
                self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; say whether it came in time."""
        deadline = time.monotonic() + timeout_s
        while self._is_there():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _is_there(self) -> bool:
        try:
            return self.alive()
        except psutil.NoSuchProcess:
            return False


def _open_log(log: Path) -> BinaryIO:
    if log_size(log) > LOG_LIMIT_BYTES:
        log.unlink()
    file = log.open("ab")
    log.chmod(0o600)
    return file


def wait_ready(server: ServerProcess, probe: Callable[[], bool]) -> bool:
    """Wait until a server answers.

    Returns:
        False when the server ended before it answered.

    Raises:
        EmbeddedError: it neither answers nor ends.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not probe():
        if not server.alive():
            return False
        if time.monotonic() > deadline:
            raise EmbeddedError(f"The embedded server {server.pid} does not answer.")
        time.sleep(POLL_S)
    return True


def log_size(log: Path) -> int:
    """Return the size of a log file in bytes; 0 when there is none."""
    return log.stat().st_size if log.exists() else 0


def log_since(log: Path, offset: int) -> str:
    """Return what was written to a log after an offset."""
    with log.open("rb") as file:
        file.seek(offset if offset <= log_size(log) else 0)
        return file.read(65536).decode("utf-8", "replace")


def last_words(text: str) -> str:
    """Return the last telling line of a server's log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "rror" in line]
    return (telling or lines or ["no output"])[-1]
