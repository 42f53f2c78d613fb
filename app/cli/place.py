"""Where things are: project files, the data directory, the port."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from app.cli.errors import CommandError
from app.embedded.state import try_lock

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_PORT = 9100


def procfile(chosen: Path | None) -> Path:
    """Return the Procfile to use.

    Raises:
        CommandError: there is none.
    """
    file = chosen or PROJECT / "Procfile"
    if not file.is_file():
        raise CommandError(f"There is no Procfile at {file}: name one with --procfile.")
    return file.absolute()


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one running platform.

    Raises:
        CommandError: another one holds it.
    """
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not try_lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise CommandError(
                f"{data_dir} is in use by another `trellis up` (process {holder or 'unknown'}): "
                "stop that one or choose another --data-dir."
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def require_port(host: str, port: int) -> None:
    """Check that the web process will be able to listen.

    Raises:
        CommandError: the port is taken or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as exc:
            raise CommandError(_port_sentence(exc, host, port)) from None


def _port_sentence(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"Port {port} is taken{_holder(port)}: choose another one with --port."
    if exc.errno == errno.EACCES:
        return f"This user may not listen on port {port}: choose one above 1023 with --port."
    return f"HOST: cannot listen on {host}:{port} ({exc.strerror})."


def _holder(port: int) -> str:
    """Return " by NAME (process N)" if the system tells us who listens on a port."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.pid
            if listening and connection.laddr[1:2] == (port,):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
