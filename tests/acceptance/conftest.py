"""Stacks of real processes: one shared by tests that leave it whole, own ones for faults."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.embedded.redis import EmbeddedRedis
from app.embedded.servers import temporary_state_dir
from tests.fakes.slack import FakeSlack, running_slack
from tests.fakes.telegram import FakeTelegram, running_telegram
from tests.support.databases import Databases, memory_directory
from tests.support.stack import Stack, running_stack, wait_until
from tests.support.warm import WarmParents, warm_parents


def archive(**files: str) -> bytes:
    """Return a .tar.gz of files; ``worker="..."`` becomes ``worker.py``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(name if "." in name else f"{name}.py")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Platform:
    """A running platform and its administrator's client."""

    stack: Stack
    admin: httpx.Client
    redis: EmbeddedRedis
    database_url: str

    def install(self, app_id: str, worker: str | None = None, **manifest: object) -> None:
        """Install an app and deploy a one-file worker."""
        body = {"appId": app_id, "name": app_id, **manifest}
        answer = self.admin.post("/apps", json=body)
        assert answer.status_code == 200, answer.text
        if worker is not None:
            answer = self.deploy(app_id, worker)
            assert answer.status_code == 200, answer.text

    def deploy(self, app_id: str, worker: str) -> httpx.Response:
        """Deploy a one-file worker."""
        return self.admin.post(f"/apps/{app_id}/deploy", files={"archive": archive(worker=worker)})

    def rpc(self, app_id: str, method: str, params: object = None) -> httpx.Response:
        """Call a method."""
        return self.admin.post(f"/apps/{app_id}/rpc", json={"method": method, "params": params})

    def enqueue(self, app_id: str, payload: object) -> int:
        """Enqueue a job and return its id."""
        answer = self.admin.post(f"/apps/{app_id}/jobs", json={"payload": payload})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["msg_id"])

    def archived(self, app_id: str) -> set[int]:
        """Return the ids of the jobs that succeeded."""
        answer = self.admin.get(f"/apps/{app_id}/jobs", params={"archived": "true", "limit": 1000})
        return {job["msg_id"] for job in answer.json()}

    def wait_archived(self, app_id: str, ids: set[int], timeout: float = 30) -> None:
        """Wait until all these jobs have succeeded."""
        wait_until(lambda: ids <= self.archived(app_id), timeout=timeout, what="jobs to succeed")


StartPlatform = Callable[..., Platform]


@pytest.fixture(scope="session")
def parents() -> Iterator[WarmParents]:
    """What the processes of all stacks are forked from."""
    with warm_parents() as parents:
        yield parents


@pytest.fixture(scope="session")
def start_platform_session(
    databases: Databases, parents: WarmParents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartPlatform]:
    with ExitStack() as cleanup:
        yield _starter(databases, parents, tmp_path_factory, cleanup)


@pytest.fixture
def start_platform(
    databases: Databases, parents: WarmParents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartPlatform]:
    """Start a platform of this test's own: ``start_platform("web", "worker", KEY="value")``."""
    with ExitStack() as cleanup:
        yield _starter(databases, parents, tmp_path_factory, cleanup)


@pytest.fixture(scope="session")
def telegram() -> Iterator[FakeTelegram]:
    """The Bot API that the shared platform's bots talk to."""
    with running_telegram() as fake:
        yield fake


@pytest.fixture(scope="session")
def slack() -> Iterator[FakeSlack]:
    """The Web API that the shared platform's bots talk to."""
    with running_slack() as fake:
        yield fake


@pytest.fixture(scope="session")
def shared_platform(
    start_platform_session: StartPlatform, telegram: FakeTelegram, slack: FakeSlack
) -> Platform:
    """One platform for all tests that leave it whole; use an app id of your own."""
    providers = {
        "TELEGRAM_API_BASE": telegram.url,
        "SLACK_API_BASE": slack.api,
        "SLACK_RESPONSE_PREFIX": slack.hooks,
    }
    return start_platform_session("web", "worker", "beat", **providers)


def _starter(
    databases: Databases,
    parents: WarmParents,
    paths: pytest.TempPathFactory,
    cleanup: ExitStack,
) -> StartPlatform:
    def start(*names: str, **env: str) -> Platform:
        database_url = cleanup.enter_context(databases.clone())
        redis = EmbeddedRedis(cleanup.enter_context(temporary_state_dir(memory_directory())))
        cleanup.callback(redis.stop)
        redis_url = redis.start()
        logs: Path = paths.mktemp("stack")
        base = {
            "APP_ENV": "testing",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TRELLIS_DATA_DIR": str(cleanup.enter_context(temporary_state_dir())),
            "DATABASE_POOL_SIZE": "5",
            # The administrator's token must outlive the tests that share a platform.
            "ACCESS_TOKEN_TTL": "7200",
            **env,
        }
        stack = cleanup.enter_context(running_stack(base, logs, names, parents.launch))
        return Platform(stack, stack.sign_up("admin@example.com"), redis, database_url)

    return start
