"""Fixtures of the JavaScript SDK's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_host import Host


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Start a JavaScript app from its source."""
    hosts: list[Host] = []

    def start(source: str, entry: str = "index.mjs", **options: Any) -> Host:
        (tmp_path / entry).write_text(source)
        hosts.append(Host("js", tmp_path, entry, {}, **options))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()
