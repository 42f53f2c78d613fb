"""Fixtures of the SDK conformance suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sdk_host import APPS, SUFFIX, Host, Starter


@pytest.fixture(params=["python", "js"])
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def start(language: str, tmp_path: Path) -> Iterator[Starter]:
    """Start an app from its (Python, JavaScript) sources."""
    hosts: list[Host] = []

    def start(sources: tuple[str, str], **env: str) -> Host:
        entry = f"worker.{SUFFIX[language]}"
        (tmp_path / entry).write_text(sources[language == "js"])
        hosts.append(Host(language, tmp_path, entry, env))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def fresh(language: str) -> Iterator[Host]:
    """The main app, before any message."""
    host = Host(language, APPS, f"main.{SUFFIX[language]}", {})
    yield host
    host.close()


@pytest.fixture
def app(fresh: Host) -> Host:
    """The main app, after its handshake and `on_start`."""
    fresh.discover()
    insert = fresh.expect("collection_op")
    fresh.reply(insert, "collection_op_result", result={"id": "s1"})
    fresh.expect("started")
    return fresh
