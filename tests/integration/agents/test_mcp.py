"""MCP servers on a node: real ones over every transport, and programs that only pretend.

Source: contract part 40, section 4.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.agents.mcp import servers
from app.agents.mcp import tools as mcp_tools
from app.agents.mcp.config import resolved
from app.agents.mcp.pool import Pool
from app.agents.tools.base import tool_key
from app.core.errors import Failed
from app.core.platform import Platform
from app.secrets import service as secrets_service
from tests.fakes.mcp_pretenders import PRETENDERS
from tests.support.stack import free_port

SERVER = Path(__file__).parents[2] / "fakes" / "mcp_server.py"
TOOLS = ["Mixed", "add", "environment", "fail", "header", "sleep"]


def stdio(name: str, *command: str, **env: str) -> dict[str, Any]:
    program, *args = command or (sys.executable, str(SERVER), "stdio")
    transport = {"type": "stdio", "command": program, "args": args}
    return {"name": name, "transport": transport, "env": env or None, "auto_start": False}


def remote(name: str, kind: str, url: str, **headers: str) -> dict[str, Any]:
    transport = {"type": kind, "url": url, "headers": headers}
    return {"name": name, "transport": transport, "env": None, "auto_start": False}


@pytest.fixture
def node(platform: Platform) -> servers.Node:
    return servers.Node(platform)


@pytest.fixture(scope="module")
def http_server() -> Iterator[str]:
    yield from listening("http", "/mcp")


def listening(kind: str, path: str) -> Iterator[str]:
    """Run the real server on a free port until the end."""
    port = free_port()
    command = [sys.executable, str(SERVER), kind, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/none", timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}{path}"
    finally:
        process.kill()
        process.wait()


def started(platform: Platform, node: servers.Node, server: dict[str, Any]) -> list[str]:
    """Register and start a server as the API and a node do together; return its tools."""
    servers.put(platform, **server)
    node.start(server["name"])
    with platform.uow() as uow:
        return [row.name for row in mcp_tools.rows(uow.session)]


def row(platform: Platform, name: str) -> dict[str, Any]:
    with platform.uow() as uow:
        return servers.shown(servers.find(uow.session, name))


def test_a_program(platform: Platform, node: servers.Node) -> None:
    with platform.uow() as uow:
        secrets_service.set_platform_secret(
            uow, platform.cipher, key="MCP_TOKEN", value="canary-77"
        )
    names = started(platform, node, stdio("own-tools", TOKEN="t-${secret:MCP_TOKEN}"))
    assert names == [f"own-tools_{name}" for name in TOOLS]
    assert "canary" not in str(row(platform, "own-tools"))
    assert node.call("own-tools", "add", {"a": 2, "b": 3}) == "5"
    assert node.call("own-tools", "Mixed", {}) == "one\n[image content]\ntwo"
    names_of_env, _, token = node.call("own-tools", "environment", {}).partition(" TOKEN=")
    assert token == "t-canary-77"
    seen = set(names_of_env.split()) - {"LC_CTYPE", "PWD", "SHLVL", "_"}
    assert seen <= {"HOME", "PATH", "TMPDIR", "TOKEN"}
    with pytest.raises(Failed, match="no luck"):
        node.call("own-tools", "fail", {"reason": "no luck"})
    # A call that fails leaves the connection whole, and calls run side by side.
    assert node.call("own-tools", "sleep", {"seconds": 0.01}) == "rested"


@pytest.mark.parametrize("kind", ["http", "sse"])
def test_a_server_elsewhere(
    platform: Platform, node: servers.Node, request: pytest.FixtureRequest, kind: str
) -> None:
    if kind == "http":
        url, ending = request.getfixturevalue("http_server"), iter(())
    else:
        ending = listening("sse", "/sse")
        url = next(ending)
    server = remote("far", kind, url, **{"X-Key": "k-1"})
    assert started(platform, node, server) == [f"far_{name}" for name in TOOLS]
    assert node.call("far", "add", {"a": 2, "b": 3}) == "5"
    assert node.call("far", "header", {"name": "x-key"}) == "k-1"
    servers.stop(platform, "far")
    with pytest.raises(Failed, match="MCP server 'far' is not running"):
        node.call("far", "add", {"a": 2, "b": 3})
    for _ in ending:
        pass


def test_what_does_not_start(
    platform: Platform, node: servers.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.agents.mcp import (
        connect,  # noqa: F401 - loaded before the clock runs
        pool,
    )

    monkeypatch.setattr(pool, "START_S", 2.0)
    with platform.uow() as uow:
        secrets_service.set_platform_secret(
            uow, platform.cipher, key="MCP_TOKEN", value="canary-77"
        )
    python = (sys.executable, "-c")
    for server, reason in (
        (stdio("a", "no-such-program-here"), "No such file or directory"),
        (
            stdio("b", *python, PRETENDERS["quits"], T="${secret:MCP_TOKEN}"),
            "no token [secret]",
        ),
        (stdio("c", *python, PRETENDERS["silent"]), "no answer in time"),
        (stdio("d", *python, PRETENDERS["babbles"]), "no answer in time"),
        (stdio("e", *python, PRETENDERS["endless"]), "does not stop listing"),
        (stdio("f", "x", T="${secret:NOT_THERE}"), "secret 'NOT_THERE' is not set"),
        (
            remote("g", "http", f"http://127.0.0.1:{free_port()}/mcp"),
            "All connection attempts failed",
        ),
        (remote("h", "http", "https://10.0.0.1/mcp"), "address of 10.0.0.1 is not allowed"),
        (
            remote("i", "sse", "https://169.254.169.254/sse"),
            "address of 169.254.169.254 is not allowed",
        ),
    ):
        servers.put(platform, **server)
        with pytest.raises(Failed, match="^start failed: ") as failure:
            node.start(server["name"])
        assert reason in failure.value.message, server["name"]
        shown = row(platform, server["name"])
        assert shown["status"] == "error"
        assert reason in shown["error"]
        assert "canary" not in f"{shown}{failure.value.message}"
    with platform.uow() as uow:
        assert mcp_tools.rows(uow.session) == []


def test_a_rude_program(platform: Platform, node: servers.Node) -> None:
    names = started(platform, node, stdio("rude", sys.executable, "-c", PRETENDERS["rude"]))
    assert names[0] == "rude_dies"
    assert names[1] == "rude_far"
    # Two names that are spelled alike here: the second has a hash.
    assert names[2] == "rude_odd_name"
    assert names[3].startswith("rude_odd_name_")
    with platform.uow() as uow:
        rows = {row.name: row for row in mcp_tools.rows(uow.session)}
        assert {row.remote_name for row in rows.values()} == {"dies", "far", "odd/name", "odd name"}
        assert rows["rude_odd_name"].description == "xy"
        assert {str(row.input_schema) for row in rows.values()} == {"{'type': 'object'}"}
    # Alike in their keys counts as well, across servers and with built-in tools.
    more = started(platform, node, stdio("rude-odd", sys.executable, "-c", PRETENDERS["rude"]))
    assert len(set(map(tool_key, more))) == len(more) == 8
    assert node.call("rude", "far", {"a": 1}) == '{"a": 1}'
    with pytest.raises(Failed):
        node.call("rude", "dies", {})
    assert node.call("rude", "far", {"a": 2}) == '{"a": 2}'


def test_clients_are_closed_when_idle_or_out_of_date(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.agents.mcp import pool

    monkeypatch.setattr(pool, "TIDY_S", 0.1)
    versions = {"r": 1}
    clients = Pool((), lambda: versions)
    program = PRETENDERS["rude"].replace(
        'json.dumps(asked["params"]["arguments"])', 'str(__import__("os").getpid())'
    )
    config = {
        "name": "r",
        "transport": {"type": "stdio", "command": sys.executable, "args": ["-c", program]},
    }

    def pid(version: int) -> str:
        return clients.call(resolved(config, version, {}), "far", {})

    first = pid(1)
    assert pid(1) == first
    second = pid(2)
    assert second != first
    # Version 2 is not what the table says: the client goes.
    deadline = time.monotonic() + 20
    while (third := pid(2)) == second:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    versions["r"] = 2
    monkeypatch.setattr(pool, "IDLE_S", 0.2)
    time.sleep(1)
    assert pid(2) != third
    monkeypatch.setattr(pool, "CALL_S", 0.01)
    with pytest.raises(Failed, match="tool timed out"):
        pid(3)
