"""``trellis up`` with the project's own Procfile: the platform from nothing, and its ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.embedded.servers import EmbeddedServers, temporary_state_dir
from app.embedded.state import choose_port
from tests.support.stack import wait_until
from tests.support.up import Up, gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
READY = "Trellis is ready at"
ACCOUNT = {"email": "you@example.com", "password": "Str0ngPass!x", "displayName": "You"}


class Site:
    """One data directory and port on which the platform is started again and again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = choose_port()
        self.url = f"http://localhost:{self.port}"
        self.runs: list[Up] = []

    def up(self) -> Up:
        """Start the platform and wait until it says that it is ready."""
        run = Up(["up", "--port", self.port, "--data-dir", self.data_dir], {"WEB_CONCURRENCY": "1"})
        self.runs.append(run)
        run.wait_for(READY, timeout_s=120)
        return run


@pytest.fixture
def site() -> Iterator[Site]:
    with temporary_state_dir() as path:
        site = Site(path)
        yield site
        for run in site.runs:
            run.destroy()
        EmbeddedServers(path).stop()


def servers_of(site: Site) -> list[psutil.Process]:
    servers = EmbeddedServers(site.data_dir)
    assert servers.postgres.adopt()
    assert servers.redis.adopt()
    return [psutil.Process(pid) for pid in (servers.postgres.pid, servers.redis.pid) if pid]


def test_from_nothing_to_ready_and_back_keeping_the_data(site: Site) -> None:
    run = site.up()
    assert f"{READY} {site.url}" in run.log
    wait_until(lambda: "Three things to try next" in run.log, timeout=5, what="the banner")
    assert httpx.get(f"{site.url}/health").json() == {"status": "ok"}
    assert httpx.post(f"{site.url}/api/v1/auth/register", json=ACCOUNT).status_code == 201

    below = [*run.children(), *servers_of(site)]
    assert run.stop(signal.SIGINT) == 0
    assert gone(below, timeout_s=1)
    assert run.lines[-1] == "Stopped."

    began = time.monotonic()
    again = site.up()
    # A busy test machine gets some slack; on an idle one this takes less than 3 s.
    assert time.monotonic() - began < 30
    assert "The schema is up to date" in again.log
    login = {key: ACCOUNT[key] for key in ("email", "password")}
    assert httpx.post(f"{site.url}/api/v1/auth/login", json=login).status_code == 200
    below = [*again.children(), *servers_of(site)]
    assert again.stop(signal.SIGTERM) == 0
    assert gone(below, timeout_s=1)


def test_a_killed_supervisor_is_followed_by_a_good_start(site: Site) -> None:
    run = site.up()
    servers = servers_of(site)
    below = [child for child in run.children() if child not in servers]
    ours = [child for child in below if child.name() not in {"postgres", "valkey-server"}]
    run.stop(signal.SIGKILL)
    assert all(server.is_running() for server in servers)

    again = site.up()
    assert [server.pid for server in servers_of(site)] == [server.pid for server in servers]
    assert gone(ours)
    assert httpx.get(f"{site.url}/health").status_code == 200
    assert again.stop() == 0
    assert gone(servers, timeout_s=1)


def test_servers_that_die_are_started_again(site: Site) -> None:
    run = site.up()
    for server in servers_of(site):
        server.kill()
    run.wait_for("Postgres ended; it is started again")
    run.wait_for("Valkey ended; it is started again")
    run.wait_for("runs (process", times=4)
    run.wait_until(
        lambda: httpx.post(f"{site.url}/api/v1/auth/register", json=ACCOUNT).status_code == 201,
        60,
        "registration after the restart of the servers",
    )
    assert run.stop() == 0
