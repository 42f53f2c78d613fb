"""Data platforms from npm that run beside us: Directus and Parse Server.

They are installed into a scratch environment that is kept between runs, and started with their
own defaults (one process each) on a database of their own on our Postgres.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from tests.bench import load, scratch
from tests.bench.scratch import Missing
from tests.support.stack import free_port

# The last lines that run on Node 20.
DIRECTUS = "directus@11.3.5"
PARSE = "parse-server@7.5.4"
SECRET = "bench-" + "0" * 32
ROWS = 100_000
THING = b'{"name":"thing","amount":42.5,"status":"open","note":"a short note"}'


@dataclass(frozen=True)
class Side:
    """A running platform with the table ``things`` of 100k rows.

    Attributes:
        pid: the root of its processes.
        create: a request that stores one row, as it goes over the wire.
        listing: a request for the newest 20 rows.
        count: returns how many rows are stored.
    """

    name: str
    pid: int
    port: int
    create: bytes
    listing: bytes
    count: Callable[[], int]


@contextmanager
def directus(database_url: str) -> Iterator[Side]:
    """Run Directus with its activity log and revisions on, as a new collection has them."""
    folder = scratch.npm(DIRECTUS)
    port = free_port()
    env = {
        "DB_CLIENT": "pg",
        "DB_CONNECTION_STRING": database_url,
        "SECRET": SECRET,
        "ADMIN_EMAIL": "bench@example.com",
        "ADMIN_PASSWORD": SECRET,
        "ADMIN_TOKEN": SECRET,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TELEMETRY": "false",
        "LOG_LEVEL": "error",
    }
    run = [str(folder / "node_modules/.bin/directus")]
    _once([*run, "bootstrap"], folder, env)
    ping = f"http://127.0.0.1:{port}/server/ping"
    with _running([*run, "start"], folder, env, ping) as process:
        token = {"Authorization": f"Bearer {SECRET}"}
        url = f"http://127.0.0.1:{port}"
        httpx.post(
            f"{url}/collections", json=_collection(), headers=token, timeout=30
        ).raise_for_status()
        _fill(
            database_url,
            "INSERT INTO things (id, created_at, name, amount, status, note)"
            " SELECT gen_random_uuid(), now() - n * interval '1 second', 'thing ' || n, n, 'open',"
            f" 'a short note' FROM generate_series(1, {ROWS}) n;"
            "CREATE INDEX ON things (created_at DESC, id)",
        )
        path = "/items/things?limit=20&sort=-created_at,id"
        yield Side(
            "Directus",
            process.pid,
            port,
            load.request("/items/things", THING, token=SECRET, port=port),
            load.request(path, method="GET", token=SECRET, port=port),
            lambda: _count(database_url, "things"),
        )


def _collection() -> dict[str, Any]:
    return {
        "collection": "things",
        "schema": {},
        "meta": {"accountability": "all"},
        "fields": [
            {
                "field": "id",
                "type": "uuid",
                "meta": {"special": ["uuid"]},
                "schema": {"is_primary_key": True},
            },
            {"field": "created_at", "type": "timestamp", "meta": {"special": ["date-created"]}},
            {"field": "name", "type": "string"},
            {"field": "amount", "type": "float"},
            {"field": "status", "type": "string"},
            {"field": "note", "type": "text"},
        ],
    }


@contextmanager
def parse_server(database_url: str) -> Iterator[Side]:
    """Run Parse Server; it keeps no audit log and here asks for no sign-in."""
    folder = scratch.npm(PARSE)
    port = free_port()
    arguments = ["--appId", "bench", "--masterKey", SECRET, "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--databaseURI", database_url, "--logLevel", "error"]
    arguments += ["--allowClientClassCreation", "true"]
    run = [str(folder / "node_modules/.bin/parse-server"), *arguments]
    ping = f"http://127.0.0.1:{port}/parse/health"
    with _running(run, folder, {}, ping) as process:
        key = {"X-Parse-Application-Id": "bench"}
        url = f"http://127.0.0.1:{port}/parse/classes/things"
        httpx.post(url, json=json.loads(THING), headers=key, timeout=30).raise_for_status()
        _fill(
            database_url,
            'INSERT INTO things ("objectId", "createdAt", "updatedAt", name, amount, status, note)'
            " SELECT substr(md5(n::text), 1, 10) || n, now() - n * interval '1 second', now(),"
            f" 'thing ' || n, n, 'open', 'a short note' FROM generate_series(1, {ROWS}) n;"
            'CREATE INDEX ON things ("createdAt" DESC)',
        )
        path = "/parse/classes/things"
        yield Side(
            "Parse",
            process.pid,
            port,
            load.request(path, THING, headers=key, port=port),
            load.request(f"{path}?limit=20&order=-createdAt", method="GET", headers=key, port=port),
            lambda: _count(database_url, "things"),
        )


def _once(command: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        timeout=180,
    )
    if done.returncode:
        raise Missing(f"{command[0]}: {(done.stderr or done.stdout).decode()[-400:]}")


@contextmanager
def _running(
    command: list[str], folder: Path, env: dict[str, str], ping: str
) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **env}, **quiet)
    try:
        until = time.monotonic() + 120
        while not _answers(ping):
            if process.poll() is not None or time.monotonic() > until:
                raise Missing(f"{Path(command[0]).name} did not start")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, headers={"X-Parse-Application-Id": "bench"}).is_success
    except httpx.HTTPError:
        return False


def _fill(database_url: str, statements: str) -> None:
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute(statements)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE things")
    connection.close()


def _count(database_url: str, table: str) -> int:
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()
