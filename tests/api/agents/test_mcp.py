"""MCP servers over HTTP, and their tools in runs (contract part 40, sections 1.3, 3.1 and 4)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from app.core.platform import Platform
from tests.fakes.mcp_pretenders import PRETENDERS
from tests.fakes.model_server import Call, ModelServer
from tests.support.agents import AgentWorker, ask, ask_aside, install_agent, wait_for_state
from tests.support.api import ApiClient, error

PROGRAM = {"type": "stdio", "command": sys.executable, "args": ["-c", PRETENDERS["rude"]]}


def test_registry(admin: ApiClient) -> None:
    assert admin.get("/mcp-servers").json == []
    transport = {"type": "http", "url": "https://mcp.example/x", "headers": {"X": "${secret:K}"}}
    made = admin.post("/mcp-servers", {"name": "web", "transport": transport, "env": {"A": "b"}})
    assert (made.status_code, made.json) == (200, {"name": "web", "status": "stopped"})
    config = {"name": "web", "transport": transport, "env": {"A": "b"}}
    shown = {"name": "web", "config": config, "status": "stopped"}
    assert admin.get("/mcp-servers/web").json == shown
    admin.post("/mcp-servers", {"name": "local", "transport": PROGRAM})
    assert [row["name"] for row in admin.get("/mcp-servers").json] == ["local", "web"]
    assert admin.post("/mcp-servers/web/stop").json == {"name": "web", "status": "stopped"}
    # Nobody is there to start it.
    assert error(admin.post("/mcp-servers/web/start")) == (503, "no worker host available")
    assert admin.delete("/mcp-servers/web").json == {"message": "MCP server 'web' removed"}
    missing = (404, "MCP server 'web' not found")
    for method, path in (
        ("get", ""),
        ("delete", ""),
        ("post", "/start"),
        ("post", "/stop"),
    ):
        assert error(getattr(admin, method)(f"/mcp-servers/web{path}")) == missing
    peer = admin.sign_up("peer@example.com")
    for answer in (
        peer.get("/mcp-servers"),
        peer.post("/mcp-servers", {"name": "x", "transport": PROGRAM}),
        peer.post("/mcp-servers/local/start"),
    ):
        assert error(answer) == (403, "missing permission: admin:mcp.manage")


def test_bad_servers(admin: ApiClient) -> None:
    def refusal(transport: Any, name: str = "x", **body: Any) -> str:
        answer = admin.post("/mcp-servers", {"name": name, "transport": transport, **body})
        status, text = error(answer)
        assert status == 400
        return text

    http = {"type": "http", "url": "https://mcp.example/x"}
    assert refusal({"type": "carrier pigeon"}) == "unsupported transport 'carrier pigeon'"
    assert refusal({}) == "field 'transport.type' is required"
    assert refusal("stdio") == "field 'transport' must be an object"
    assert refusal(None) == "field 'transport' is required"
    assert refusal(PROGRAM, name="Up") == (
        "name must be 1-32 lower-case letters, digits, '_' or '-'"
    )
    assert refusal({**PROGRAM, "command": ""}).startswith("field 'transport.command' must be")
    assert refusal({**PROGRAM, "command": "A=b"}).startswith("field 'transport.command' must be")
    assert refusal({**PROGRAM, "args": [1]}) == (
        "field 'transport.args' must be an array of strings"
    )
    assert refusal({"type": "sse"}) == "field 'transport.url' must be a string"
    assert refusal({**http, "url": "http://mcp.example/x"}) == (
        "field 'transport.url': only https is allowed"
    )
    assert refusal({**http, "url": "https://u:p@mcp.example"}) == (
        "field 'transport.url': not a valid URL"
    )
    assert refusal({**http, "headers": {"X": "a\r\nY: b"}}) == (
        "field 'transport.headers.X' must be a string of one line"
    )
    assert refusal(http, env={"A B": "c"}) == "field 'env' has a bad name: 'A B'"
    assert refusal(http, autoStart="yes") == "field 'autoStart' must be a boolean"
    assert admin.get("/mcp-servers").json == []


def completed(talk: Any) -> list[tuple[Any, Any]]:
    return [(e["output"], e["error"]) for e in talk.of_kind("tool_call_completed")]


def grant(admin: ApiClient, role: str, *keys: str) -> None:
    found = next(r for r in admin.get("/roles").json if r["name"] == role)
    body = {"permissions": [*found["permissions"], *keys]}
    assert admin.patch(f"/roles/{role}", body).status_code == 200


def test_tools_of_a_server_in_runs(
    platform: Platform, admin: ApiClient, model: ModelServer, worker: AgentWorker
) -> None:
    supervision = {
        "mode": "supervised",
        "policies": [{"action": "query_dies", "requires": "approval"}],
    }
    install_agent(platform, admin, supervision=supervision)
    # Its keys begin like one of a built-in tool, which must not suffer.
    admin.post("/mcp-servers", {"name": "query", "transport": PROGRAM})
    worker.runner.mcp.start("query")
    assert admin.post("/mcp-servers/query/start").json["status"] == "running"
    tools = admin.get("/mcp-servers/query").json
    assert tools["status"] == "running"
    assert "query_far" in {tool["name"] for tool in admin.get("/tools").json}
    key = "tool:query_far"
    keys = {entry["key"] for entry in admin.get("/permissions/available").json}
    assert {key, "tool:query_data"} <= keys

    far = Call("query_far", {"a": 1})
    model.call(far)
    model.say("ok")
    # The agent's role does not name it; then its invoker's does not; then both do.
    assert completed(ask(admin, "x")) == [(None, f"missing permission: {key}")]
    offered = {t["function"]["name"] for t in model.requests[-1].body["tools"]}
    assert "query_far" not in offered
    grant(admin, "app:stock:agent", key, "tool:query_dies")
    user = admin.sign_up("u@example.com")
    admin.post("/roles", {"name": "u", "permissions": ["app:stock:invoke"]})
    admin.post("/roles/assign", {"userId": user.user_id, "role": "u"})
    model.call(far)
    model.say("ok")
    assert completed(ask(user, "x")) == [(None, f"missing permission: {key}")]
    grant(admin, "u", key)
    model.call(far)
    model.say("ok")
    assert completed(ask(user, "x")) == [('{"a": 1}', None)]
    offered = {t["function"]["name"] for t in model.requests[-1].body["tools"]}
    assert "query_far" in offered

    model.call(Call("query_dies", {}))
    aside = ask_aside(admin, "x")
    asked = aside.wait_for("approval_required")
    assert asked["reason"] == "policy: query_dies needs approval"
    wait_for_state(platform, aside.run_id, "waiting_approval")
    model.say("It died.")
    path = f"/apps/stock/agent/approvals/{asked['approval_id']}"
    admin.post(path, {"action": "approve"})
    assert completed(aside.finish()) == [(None, "Connection closed")]

    assert admin.post("/mcp-servers/query/stop").status_code == 200
    model.call(far)
    model.say("ok")
    assert completed(ask(user, "x")) == [(None, "unknown tool: query_far")]
    keys = {entry["key"] for entry in admin.get("/permissions/available").json}
    assert key not in keys
    assert "tool:query_data" in keys
    answer = admin.post("/tools/query_far/execute", {"appId": "stock", "args": {}})
    assert error(answer) == (404, "unknown tool: 'query_far'")


@pytest.mark.usefixtures("stock")
def test_the_gate_of_a_tool_knows_its_key(admin: ApiClient) -> None:
    peer = admin.sign_up("peer@example.com")
    answer = peer.post("/tools/web-Search/execute", {"appId": "stock", "args": {}})
    assert error(answer) == (403, "missing permission: tool:web_search")
