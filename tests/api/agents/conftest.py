"""A model server, an app with an agent, and a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.core.platform import Platform
from config.settings import Settings
from tests.fakes.model_server import ModelServer, model_server
from tests.support.agents import AgentWorker, install_agent, register_model, working
from tests.support.api import ApiClient


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Runs need a connection each, besides that of the keeper."""
    return replace(settings, database=replace(settings.database, pool_size=10))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def model(admin: ApiClient, server: ModelServer) -> ModelServer:
    """The fake server, registered as the default model."""
    register_model(admin, server)
    return server


@pytest.fixture
def stock(platform: Platform, admin: ApiClient) -> str:
    """An app with an agent."""
    return install_agent(platform, admin)


@pytest.fixture
def worker(platform: Platform) -> Iterator[AgentWorker]:
    with working(platform) as running:
        yield running
