"""Both embedded servers of one state directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.embedded.options import ServerOptions
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.state import STATE_FILE, StateDirectory


class ServerURLs(NamedTuple):
    """What clients need to know."""

    database: str
    redis: str


class EmbeddedServers:
    """Postgres and Valkey of one state directory; each can also be used alone."""

    def __init__(self, state_dir: Path | str, options: ServerOptions | None = None) -> None:
        """Open the state directory; nothing is started.

        Raises:
            EmbeddedError: the directory is foreign or cannot be used.
        """
        self.state_dir = Path(state_dir).absolute()
        self.postgres = EmbeddedPostgres(self.state_dir, options)
        self.redis = EmbeddedRedis(self.state_dir, options)

    def start(self) -> ServerURLs:
        """Start or adopt both servers and return their URLs."""
        return ServerURLs(self.postgres.start(), self.redis.start())

    def stop(self) -> None:
        """Stop the broker, then Postgres."""
        self.redis.stop()
        self.postgres.stop()


@contextlib.contextmanager
def temporary_servers(
    options: ServerOptions | None = None, *, parent: Path | None = None
) -> Iterator[EmbeddedServers]:
    """Run both servers in a directory of their own, and remove it with them at the end.

    Meant for tests; without options Postgres runs without fsync.

    Args:
        options: other choices than the defaults.
        parent: where the directory is made; else where temporary files are.
    """
    with temporary_state_dir(parent) as path:
        servers = EmbeddedServers(path, options or ServerOptions(durable=False))
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@contextlib.contextmanager
def temporary_state_dir(parent: Path | None = None) -> Iterator[Path]:
    """Give a fresh state directory that another user can pass through, and remove it."""
    path = Path(tempfile.mkdtemp(prefix="trellis-", dir=parent))
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        if (path / STATE_FILE).exists():
            StateDirectory(path).remove()
        shutil.rmtree(path, ignore_errors=True)
