"""The platform and the plain floor, running side by side on the same servers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psycopg2
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import make_url

from app.embedded.options import ServerOptions
from app.embedded.redis import EmbeddedRedis
from app.embedded.servers import temporary_servers, temporary_state_dir
from tests.acceptance.conftest import archive
from tests.support.databases import Databases
from tests.support.stack import ROOT, Stack, free_port, running_stack, wait_until


@dataclass(frozen=True)
class Bench:
    """A running platform and its administrator."""

    stack: Stack
    admin: httpx.Client
    redis: EmbeddedRedis

    @property
    def port(self) -> int:
        """Port of the API."""
        return int(self.stack.env["PORT"])

    @property
    def token(self) -> str:
        """The administrator's access token."""
        return self.admin.headers["Authorization"].removeprefix("Bearer ")

    def install(self, app_id: str, worker: str) -> None:
        """Install an app and deploy a one-file worker."""
        self.admin.post("/apps", json={"appId": app_id, "name": app_id}).raise_for_status()
        files = {"archive": archive(worker=worker)}
        answer = self.admin.post(f"/apps/{app_id}/deploy", files=files)
        assert answer.status_code == 200, answer.text


@contextmanager
def platform(*names: str, **env: str) -> Iterator[Bench]:
    """Run process types of the platform on servers of their own, which wait for the disk."""
    with ExitStack() as stack:
        servers = stack.enter_context(temporary_servers(ServerOptions()))
        databases = stack.enter_context(Databases.on(servers.postgres.url))
        settings = {
            "APP_ENV": "testing",
            "DATABASE_URL": stack.enter_context(databases.clone()),
            "REDIS_URL": servers.redis.url,
            "TRELLIS_DATA_DIR": str(stack.enter_context(temporary_state_dir())),
            "LOG_LEVEL": "WARNING",
            **env,
        }
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = stack.enter_context(running_stack({**settings, "LOG_LEVEL": "INFO"}, logs, names))
        admin = stack.enter_context(running.sign_up("bench@example.com"))
        yield Bench(running, admin, servers.redis)


@contextmanager
def database(server_url: str, name: str) -> Iterator[str]:
    """Give the URL of a new database on a server; drop it at the end."""
    url = make_url(server_url).set(drivername="postgresql")
    run = psycopg2.connect(url.render_as_string(hide_password=False))
    run.autocommit = True
    try:
        with run.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
            yield url.set(database=name).render_as_string(hide_password=False)
            drop = partial(cursor.execute, f'DROP DATABASE "{name}" WITH (FORCE)')
            wait_until(lambda: _done(drop), what=f"the end of database {name}")
    finally:
        run.close()


def _done(work: Callable[[], None]) -> bool:
    """Try; an autovacuum that is at work there may not be ended by our role, but ends soon."""
    try:
        work()
    except InsufficientPrivilege:
        return False
    return True


@contextmanager
def plain(redis_url: str) -> Iterator[int]:
    """Run the floor; give the port of its web process."""
    port = free_port()
    env = {
        **os.environ,
        "PLAIN_REDIS": redis_url.rpartition("/")[0] + "/1",
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    bin_ = Path(sys.executable).parent
    web = [bin_ / "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}"]
    web += ["--graceful-timeout", "2"]
    worker = [bin_ / "celery", "-A", "tests.bench.plain_app:celery", "worker"]
    worker += ["--pool", "threads", "--concurrency", "32", "-l", "WARNING"]
    worker += ["--without-gossip", "--without-mingle"]
    quiet = {"cwd": ROOT, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([*web, "tests.bench.plain_app:app"], **quiet),
        subprocess.Popen(worker, **quiet),
    ]
    try:
        _wait(port)
        yield port
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(15)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            url = f"http://127.0.0.1:{port}/rpc"
            if httpx.post(url, json={"params": 1}, timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError("the floor did not start")
