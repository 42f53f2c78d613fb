"""The servers of one run: embedded ones are started, watched and stopped; given ones are used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from app.cli.supervisor import backoff_s
from app.embedded.errors import EmbeddedError
from app.embedded.options import ServerOptions
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis

WATCH_S = 0.5

Server = EmbeddedPostgres | EmbeddedRedis


class ServerKeeper:
    """Starts the embedded servers that the environment does not replace, and keeps them up."""

    def __init__(self, data_dir: Path, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Prepare; nothing is started.

        Args:
            data_dir: state directory of the servers.
            env: DATABASE_URL and REDIS_URL in it each replace one server.
            say: prints one line.
        """
        options = ServerOptions.from_env(env)
        self._given = {
            name: env[name] for name in ("DATABASE_URL", "REDIS_URL") if env.get(name, "")
        }
        self._servers: dict[str, Server] = {}
        if "DATABASE_URL" not in self._given:
            self._servers["DATABASE_URL"] = EmbeddedPostgres(data_dir, options)
        if "REDIS_URL" not in self._given:
            self._servers["REDIS_URL"] = EmbeddedRedis(data_dir, options)
        self._say = say
        self._stop = threading.Event()
        self._starting = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="servers", daemon=True)

    def start(self) -> dict[str, str]:
        """Start the servers and the watch; return DATABASE_URL and REDIS_URL.

        Raises:
            EmbeddedError: a server cannot be started.
        """
        urls = dict(self._given)
        for name, server in self._servers.items():
            urls[name] = server.start()
            self._say(f"{_title(server)} runs (process {server.pid}, files {server.data_dir})")
        self._thread.start()
        return urls

    def pids(self) -> list[int] | None:
        """Return the process ids of the servers, or None while one is being started."""
        if self._starting.is_set():
            return None
        return [server.pid for server in self._servers.values() if server.pid is not None]

    def stop(self) -> None:
        """Stop the watch, then the broker, then Postgres. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for server in reversed(self._servers.values()):
            server.stop()

    def _watch(self) -> None:
        failures = 0
        while not self._stop.wait(WATCH_S if not failures else backoff_s(failures)):
            dead = [server for server in self._servers.values() if not server.alive()]
            failures = failures + 1 if dead and not self._restart(dead) else 0

    def _restart(self, dead: list[Server]) -> bool:
        self._starting.set()
        try:
            for server in dead:
                self._say(f"{_title(server)} ended; it is started again")
                server.start()
                self._say(f"{_title(server)} runs (process {server.pid})")
        except (EmbeddedError, OSError) as exc:
            self._say(str(exc))
            return False
        finally:
            self._starting.clear()
        return True


def _title(server: Server) -> str:
    return "Postgres" if isinstance(server, EmbeddedPostgres) else "Valkey"


def current_urls(data_dir: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the URLs that are given or whose embedded server runs now; nothing is started."""
    urls = {name: env[name] for name in ("DATABASE_URL", "REDIS_URL") if env.get(name)}
    if not os.access(data_dir / "state.json", os.R_OK):
        return urls
    options = ServerOptions.from_env(env)
    servers: dict[str, Server] = {
        "DATABASE_URL": EmbeddedPostgres(data_dir, options),
        "REDIS_URL": EmbeddedRedis(data_dir, options),
    }
    for name, server in servers.items():
        if name not in urls and server.adopt():
            urls[name] = server.url
    return urls
