"""Fixtures of channel tests: fake providers, a fake model, agents at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.core.platform import Platform
from config.settings import Settings
from tests.fakes.model_server import ModelServer, model_server
from tests.fakes.slack import FakeSlack, running_slack
from tests.fakes.telegram import FakeTelegram, running_telegram
from tests.support.agents import AgentWorker, install_agent, register_model, working
from tests.support.api import ApiClient
from tests.support.channels import Bot, open_bot


@pytest.fixture
def telegram() -> Iterator[FakeTelegram]:
    """A Bot API in whose sight nothing wrong was done."""
    with running_telegram() as fake:
        yield fake
        assert fake.complaints == []


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    """A Web API."""
    with running_slack() as fake:
        yield fake


@pytest.fixture
def settings(settings: Settings, telegram: FakeTelegram) -> Settings:
    """The providers are on loopback; runs need a connection each."""
    return replace(
        settings,
        database=replace(settings.database, pool_size=12),
        channels=replace(settings.channels, telegram_api_base=telegram.url),
    )


@pytest.fixture
def model(admin: ApiClient) -> Iterator[ModelServer]:
    """The fake server, registered as the default model."""
    with model_server() as server:
        register_model(admin, server)
        yield server


@pytest.fixture
def stock(platform: Platform, admin: ApiClient) -> str:
    """An app with an agent."""
    return install_agent(platform, admin)


@pytest.fixture
def agents(platform: Platform) -> Iterator[AgentWorker]:
    """A worker for runs."""
    with working(platform) as running:
        yield running


@pytest.fixture
def bot(platform: Platform, admin: ApiClient, telegram: FakeTelegram, stock: str) -> Bot:
    """An active bot whose default agent is that of the app ``stock``."""
    return open_bot(platform, admin, telegram, stock)
