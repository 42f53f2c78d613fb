"""A Postgres of Debian's with its pg_cron, from a scratch folder; nothing is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from app.embedded.account import Account, pick_account
from app.embedded.servers import temporary_state_dir
from tests.bench import scratch
from tests.support.stack import free_port

VERSIONS = ("18", "17", "16", "15")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    "cron.host": "127.0.0.1",
    "timezone": "UTC",
    "fsync": "on",
}


@contextmanager
def server(*preload: str, **env: str) -> Iterator[psycopg2.extensions.connection]:
    """Run the server; give a superuser's connection to the database of pg_cron.

    Args:
        preload: further Debian packages whose files are unpacked beside it.
        env: added to the server's environment.

    Raises:
        Missing: no such packages here, or they do not run.
    """
    programs, libraries = _programs(preload)
    env = {"PATH": os.defpath, "LC_ALL": "C", "LD_LIBRARY_PATH": str(libraries), **env}
    account = pick_account(None, None)
    with temporary_state_dir() as folder:
        data, port = folder / "pg", free_port()
        data.mkdir(mode=0o700)
        account.own(data)
        _initdb(programs, data, account, env)
        settings = {**SETTINGS, "port": str(port)}
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                cwd=data,
                env=env,
                stdout=log,
                stderr=log,
                **account.popen_options(),
            )
        try:
            connection = _connect(port, process, folder / "log")
            with connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION pg_cron")
            yield connection
            connection.close()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _programs(more: tuple[str, ...]) -> tuple[Path, Path]:
    """Return the folders of the programs and of the libraries."""
    why = ""
    for version in VERSIONS:
        packages = (f"postgresql-{version}", f"postgresql-{version}-cron", "libpq5", *more)
        try:
            root = scratch.debian(*packages)
        except scratch.Missing as exc:
            why = why or str(exc)
            continue
        (library,) = root.glob("usr/lib/*/libpq.so.5")
        return root / f"usr/lib/postgresql/{version}/bin", library.parent
    raise scratch.Missing(f"no package of pg_cron: {why}")


def _initdb(programs: Path, data: Path, account: Account, env: dict[str, str]) -> None:
    # Nobody but this machine reaches it, and it is gone in minutes.
    options = ["-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    done = subprocess.run(
        [programs / "initdb", *options],
        check=False,
        cwd=data,
        env=env,
        capture_output=True,
        **account.popen_options(),
    )
    if done.returncode:
        raise scratch.Missing(f"initdb: {done.stderr.decode(errors='replace').strip()[-300:]}")


def _connect(
    port: int, process: subprocess.Popen[bytes], log: Path
) -> psycopg2.extensions.connection:
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    for _ in range(200):
        try:
            connection = psycopg2.connect(url)
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            connection.autocommit = True
            return connection
        if process.poll() is not None:
            break
    raise scratch.Missing(f"its server did not start: {log.read_text()[-300:]}")
