"""The embedded Postgres: set up once, start, adopt, stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psycopg2
from psycopg2 import sql

from app.embedded.account import Account, check_passwd_entry, pick_account
from app.embedded.binaries import POSTGRES_MAJOR, Program, find_postgres
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

DATABASE = "trellis"
OWNER = "trellis"
ADMIN = "postgres"
STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
FAST_STOP_S = 30.0
RETRY_S = 10.0
# For servers whose files nobody needs after them: no fsync, and as little log as possible.
THROW_AWAY = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
}
# Parallel queries allocate in /dev/shm, which is 64 MB in a default container.
SMALL_SHM_BYTES = 128 * 1024 * 1024


class EmbeddedPostgres:
    """One Postgres server on 127.0.0.1, kept in a state directory.

    Several processes may call ``start`` on the same directory: one of them starts the
    server, the others adopt it. The application's role owns its database and may create
    further ones; it is no superuser.
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
        """Connection URL of the application's database; valid after the first start."""
        state = self._state.read()
        return (
            f"postgresql://{OWNER}:{state.app_password}@127.0.0.1:{state.postgres_port}/{DATABASE}"
        )

    @property
    def admin_url(self) -> str:
        """Connection URL of the superuser, for tests and repairs."""
        state = self._state.read()
        return (
            f"postgresql://{ADMIN}:{state.admin_password}@127.0.0.1:{state.postgres_port}/postgres"
        )

    @property
    def pid(self) -> int | None:
        """Process id of the running server that this object started or adopted."""
        return self._server.pid if self._server and self._server.alive() else None

    @property
    def data_dir(self) -> Path:
        """Directory of the server's files; valid after the first start."""
        return Path(self._state.read().home) / "pg"

    @property
    def log_file(self) -> Path:
        """Log of the server."""
        return self._state.path / "postgres.log"

    def start(self) -> str:
        """Start the server, or adopt it when it runs already.

        Returns:
            The application's connection URL; a query works.

        Idempotent. Locks the state directory.

        Raises:
            EmbeddedError: no usable binaries, user, port or files; the text says which.
        """
        with self._state.lock():
            if not self.adopt():
                self._start()
            self._keep_port = True
        return self.url

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: ``fast`` ends sessions and checkpoints, ``immediate`` recovers later.

        Never sends SIGKILL. Idempotent.
        """
        with self._state.lock():
            if not self.adopt():
                return
            server = self._server
            assert server is not None  # noqa: S101 -- adopt() returned true
            server.signal(STOP_SIGNALS[mode])
            if not server.wait(FAST_STOP_S):
                server.signal(signal.SIGQUIT)
                server.wait(FAST_STOP_S)
            self._server = None

    def kill(self) -> None:
        """Send SIGKILL to the server, as a crash would end it."""
        with self._state.lock():
            if self.adopt() and self._server:
                self._server.signal(signal.SIGKILL)
                self._server.wait(FAST_STOP_S)
                self._server = None

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
        data = Path(state.home) / "pg"
        try:
            lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            pid, port = int(lines[0]), int(lines[3])
        except (OSError, ValueError, IndexError):
            return False
        server = ServerProcess.adopt(pid, ("postgres",), data)
        if server is None:
            return False
        self._server = server
        if port != state.postgres_port:
            self._state.write(replace(state, postgres_port=port))
        return wait_ready(server, self._answers)

    def _start(self) -> None:
        account = self._account()
        home = self._state.home(account)
        data = home / "pg"
        program = find_postgres(self._options.postgres_bin, account, home)
        if not (data / "PG_VERSION").exists():
            self._create_cluster(program, account, home)
        _check_major(data)
        deadline = time.monotonic() + RETRY_S
        while True:
            self._choose_port(deadline)
            words = self._spawn(program, account, data)
            if words is None:
                break
            if not _passing(words) or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"The embedded Postgres did not start: {last_words(words)} "
                    f"(log: {self.log_file})"
                )
            time.sleep(0.1)
        self._create_database()

    def _account(self) -> Account:
        home = self._state.read().home
        data = Path(home) / "pg" if home else None
        return pick_account(self._options.run_as, data if data and data.exists() else None)

    def _choose_port(self, deadline: float) -> None:
        """Keep the port of earlier starts if it is free; clients may know it already."""
        state = self._state.read()
        while self._keep_port and not port_is_free(state.postgres_port):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"Port {state.postgres_port} of Postgres was taken meanwhile.")
            time.sleep(0.05)
        if not state.postgres_port or not port_is_free(state.postgres_port):
            self._state.write(replace(state, postgres_port=choose_port()))

    def _spawn(self, program: Program, account: Account, data: Path) -> str | None:
        """Start the server once; return its log when it ended before it answered."""
        offset = log_size(self.log_file)
        command = [str(program.path), "-D", str(data), *self._settings()]
        server = ServerProcess.spawn(command, account=account, log=self.log_file, cwd=data)
        self._server = server
        if wait_ready(server, self._answers):
            return None
        self._server = None
        return log_since(self.log_file, offset)

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._state.read().postgres_port),
            "unix_socket_directories": "",
            "shared_buffers": "128MB",
            "max_connections": "200",
            # Claims walk over what was claimed before until it is vacuumed away.
            "autovacuum_naptime": "5s",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if _shared_memory_is_small():
            settings["max_parallel_workers_per_gather"] = "0"
        if not self._options.durable:
            settings |= THROW_AWAY
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _create_cluster(self, program: Program, account: Account, home: Path) -> None:
        """Make the cluster beside its final place, so that a crash leaves no half of one."""
        check_passwd_entry(account)
        draft = home / "pg.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        account.own(draft)
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "w", encoding="ascii") as pipe:
            pipe.write(f"{self._state.read().admin_password}\n")
        try:
            account.own(read_end)  # The password file is opened after the change of user.
            self._initdb(program, account, draft, read_end)
        finally:
            os.close(read_end)
        draft.rename(home / "pg")

    def _initdb(self, program: Program, account: Account, data: Path, password: int) -> None:
        command = [
            str(program.path.with_name("initdb")),
            *("-D", str(data)),
            *("-U", ADMIN),
            "--auth=scram-sha-256",
            f"--pwfile=/dev/fd/{password}",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        if not self._options.durable:
            command.append("--no-sync")
        answer = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(password,),
            cwd=data,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **account.popen_options(),
        )
        if answer.returncode:
            words = last_words((answer.stdout + answer.stderr).decode("utf-8", "replace"))
            raise EmbeddedError(f"The embedded Postgres could not be set up: {words}")

    def _create_database(self) -> None:
        """Create the application's role and database; each step is skipped when it is done."""
        connection = psycopg2.connect(self.admin_url)
        connection.autocommit = True
        role = {"role": sql.Identifier(OWNER), "password": sql.Literal(self._app_password())}
        database = {"database": sql.Identifier(DATABASE), "role": sql.Identifier(OWNER)}
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (OWNER,))
                if not cursor.fetchone():
                    text = sql.SQL(
                        "CREATE ROLE {role} LOGIN CREATEDB CREATEROLE PASSWORD {password}"
                    )
                    cursor.execute(text.format(**role))
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if not cursor.fetchone():
                    text = sql.SQL("CREATE DATABASE {database} OWNER {role}")
                    cursor.execute(text.format(**database))
        finally:
            connection.close()

    def _app_password(self) -> str:
        return self._state.read().app_password

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.admin_url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True


def _passing(words: str) -> bool:
    """Say whether a failed start has a cause that goes away, after a crash for instance."""
    causes = ("pre-existing shared memory block", "could not bind", "could not create any TCP/IP")
    return any(cause in words for cause in causes) or not words.strip()


def _check_major(data: Path) -> None:
    found = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if found != str(POSTGRES_MAJOR):
        raise EmbeddedError(
            f"The database files in {data} are of Postgres {found}, but this release runs "
            f"Postgres {POSTGRES_MAJOR}: dump them with the old release and restore the dump."
        )


def _shared_memory_is_small() -> bool:
    try:
        info = os.statvfs("/dev/shm")  # noqa: S108 -- only its size is asked for
    except OSError:
        return False
    return info.f_frsize * info.f_bavail < SMALL_SHM_BYTES
