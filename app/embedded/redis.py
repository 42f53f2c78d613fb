"""The embedded Valkey (Redis protocol): start, adopt, stop."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import redis

from app.embedded.account import Account, pick_account
from app.embedded.binaries import REDIS_NAMES, Program, find_redis
from app.embedded.errors import EmbeddedError
from app.embedded.launch import (
    ServerProcess,
    last_words,
    log_since,
    log_size,
    wait_ready,
)
from app.embedded.options import ServerOptions
from app.embedded.state import StateDirectory, choose_port, port_is_free

STOP_S = 10.0
RETRY_S = 10.0


class EmbeddedRedis:
    """One Valkey server on 127.0.0.1, kept in a state directory.

    Several processes may call ``start`` on the same directory: one of them starts the
    server, the others adopt it.
    """

    def __init__(self, state_dir: Path | str, options: ServerOptions | None = None) -> None:
        """Open the state directory; nothing is started.

        Raises:
            EmbeddedError: the directory is foreign or cannot be used.
        """
        self._state = StateDirectory(Path(state_dir))
        self._options = options or ServerOptions()
        self._server: ServerProcess | None = None
        self._keep_port = False

    @property
    def url(self) -> str:
        """Connection URL of database 0; valid after the first start."""
        state = self._state.read()
        return f"redis://:{state.redis_password}@127.0.0.1:{state.redis_port}/0"

    @property
    def pid(self) -> int | None:
        """Process id of the running server that this object started or adopted."""
        return self._server.pid if self._server and self._server.alive() else None

    @property
    def data_dir(self) -> Path:
        """Directory of the server's files; valid after the first start."""
        return Path(self._state.read().home) / "redis"

    @property
    def log_file(self) -> Path:
        """Log of the server."""
        return self._state.path / "redis.log"

    def start(self, *, empty: bool = False) -> str:
        """Start the server, or adopt it when it runs already.

        Args:
            empty: forget all stored keys first; only for a server that does not run.

        Returns:
            The connection URL; PING works.

        Idempotent. Locks the state directory.

        Raises:
            EmbeddedError: no usable binary, user, port or files; the text says which.
        """
        with self._state.lock():
            if not self.adopt():
                self._start(empty=empty)
            self._keep_port = True
        return self.url

    def stop(self) -> None:
        """Stop the server with SIGTERM, which writes everything to disk. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the server, as a crash would end it."""
        self._end(signal.SIGKILL)

    def alive(self) -> bool:
        """Say whether the server process that this object knows runs."""
        return self.pid is not None

    def adopt(self) -> bool:
        """Find the running server of the directory and remember it; say whether there is one."""
        if self.alive():
            return True
        state = self._state.read()
        if not state.home:
            return False
        data = Path(state.home) / "redis"
        try:
            pid = int((data / "server.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        server = ServerProcess.adopt(pid, REDIS_NAMES, data)
        if server is None:
            return False
        self._server = server
        return wait_ready(server, self._answers)

    def _end(self, number: int) -> None:
        with self._state.lock():
            if not self.adopt() or self._server is None:
                return
            self._server.signal(number)
            if not self._server.wait(STOP_S):
                self._server.signal(signal.SIGKILL)
                self._server.wait(STOP_S)
            self._server = None

    def _start(self, *, empty: bool) -> None:
        account = self._account()
        home = self._state.home(account)
        data = home / "redis"
        program = find_redis(self._options.redis_server, account, home)
        if empty:
            shutil.rmtree(data, ignore_errors=True)
        if not data.is_dir():
            data.mkdir(mode=0o700)
            account.own(data)
        deadline = time.monotonic() + RETRY_S
        while True:
            self._choose_port(deadline)
            words = self._spawn(program, account, data)
            if words is None:
                return
            if "bind" not in words or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"The embedded Valkey did not start: {last_words(words)} (log: {self.log_file})"
                )
            time.sleep(0.1)

    def _account(self) -> Account:
        home = self._state.read().home
        data = Path(home) / "redis" if home else None
        return pick_account(self._options.run_as, data if data and data.exists() else None)

    def _choose_port(self, deadline: float) -> None:
        """Keep the port of earlier starts if it is free; clients may know it already."""
        state = self._state.read()
        while self._keep_port and not port_is_free(state.redis_port):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"Port {state.redis_port} of Valkey was taken meanwhile.")
            time.sleep(0.05)
        if not state.redis_port or not port_is_free(state.redis_port):
            self._state.write(replace(state, redis_port=choose_port()))

    def _spawn(self, program: Program, account: Account, data: Path) -> str | None:
        """Start the server once; return its log when it ended before it answered."""
        offset = log_size(self.log_file)
        server = ServerProcess.spawn(
            [program.path, "-"],
            account=account,
            log=self.log_file,
            cwd=data,
            stdin=self._configuration(data),
        )
        self._server = server
        if wait_ready(server, self._answers):
            return None
        self._server = None
        return log_since(self.log_file, offset)

    def _configuration(self, data: Path) -> str:
        """Return the configuration; it goes in by standard input, as it holds the password."""
        state = self._state.read()
        lines = {
            "bind": "127.0.0.1",
            "port": str(state.redis_port),
            "requirepass": state.redis_password,
            "dir": _quoted(data),
            "pidfile": _quoted(data / "server.pid"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
