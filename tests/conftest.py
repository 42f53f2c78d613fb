"""Fixtures every test may use: real Postgres and Valkey, a platform on them, a client."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from app.auth.tokens import mint_access_token
from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from app.core.platform import Platform
from app.embedded.servers import ServerURLs, temporary_servers
from config.settings import Settings, load_settings
from tests.support.api import ApiClient, web_client
from tests.support.databases import Databases, memory_directory

ADMIN = "admin@example.com"

hypothesis_settings.register_profile(
    "trellis", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("trellis")


def pytest_configure() -> None:
    """End as on Ctrl-C when told to stop, so that no server is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to stop", 143))


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerURLs]:
    """URLs of Postgres and Redis: real ones from the environment, else embedded ones."""
    database, redis = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    if database and redis:
        yield ServerURLs(database, redis)
        return
    with temporary_servers(parent=memory_directory()) as embedded:
        yield ServerURLs(database or embedded.postgres.url, redis or embedded.redis.url)


@pytest.fixture(scope="session")
def databases(servers: ServerURLs) -> Iterator[Databases]:
    """Migrated databases on demand, cloned from one template."""
    with Databases.on(servers.database) as databases:
        yield databases


@pytest.fixture(scope="session")
def admins_database(
    databases: Databases, servers: ServerURLs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """URL of a database whose first user has signed up, and that user's id; for cloning."""
    with databases.clone() as url:
        settings = _settings(url, servers.redis, tmp_path_factory.mktemp("admin"))
        with _platform(settings) as platform:
            admin = ApiClient(web_client(platform)).sign_up(ADMIN)
        assert admin.user_id
        yield url, admin.user_id


@pytest.fixture
def database_url(databases: Databases, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of this test's own; with ``admin`` in it if the test asks for one."""
    template = None
    if "admin" in request.fixturenames:
        template, _ = request.getfixturevalue("admins_database")
    with databases.clone(template) as url:
        yield url


@pytest.fixture
def redis_url(servers: ServerURLs) -> str:
    """An emptied Redis."""
    from redis import Redis

    with Redis.from_url(servers.redis) as client:
        client.flushdb()
    return servers.redis


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a platform on this test's own servers."""
    return _settings(database_url, redis_url, tmp_path)


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    """A platform like that of a web process."""
    with _platform(settings) as platform:
        yield platform


@pytest.fixture
def client(platform: Platform) -> ApiClient:
    """An HTTP client without a token."""
    return ApiClient(web_client(platform))


@pytest.fixture
def admin(client: ApiClient, settings: Settings, admins_database: tuple[str, str]) -> ApiClient:
    """A client signed in as the first user, who is the administrator."""
    _, user_id = admins_database
    token = mint_access_token(settings.auth, UUID(user_id), ADMIN)
    return ApiClient(client.http, token, user_id)


def _settings(database_url: str, redis_url: str, folder: Path) -> Settings:
    return load_settings(
        {
            "APP_ENV": "testing",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TRELLIS_DATA_DIR": str(folder / "data"),
            "DATABASE_POOL_SIZE": "5",
        }
    )


@contextmanager
def _platform(settings: Settings) -> Iterator[Platform]:
    celery = make_celery(settings)
    platform = bootstrap(settings, CeleryPublisher(celery), process="test")
    yield platform
    platform.replies.close()
    platform.engine.dispose()
    platform.redis.close()
    celery.close()
