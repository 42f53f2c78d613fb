"""Platforms that several tests of one module share, for tests that change nothing."""

import pytest

from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from app.factory import create_app
from config.settings import load_settings
from tests.support.api import ApiClient


@pytest.fixture(scope="module")
def shared_admin(databases, servers, tmp_path_factory):
    """An administrator's client; the database lives as long as the test module."""
    with databases.clone() as url:
        environment = {
            "APP_ENV": "testing",
            "DATABASE_URL": url,
            "REDIS_URL": servers.redis,
            "TRELLIS_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        }
        settings = load_settings(environment)
        celery = make_celery(settings)
        platform = bootstrap(settings, CeleryPublisher(celery), process="test")
        yield ApiClient(create_app(platform).test_client()).sign_up("admin@example.com")
        platform.engine.dispose()
        platform.redis.close()
        celery.close()
