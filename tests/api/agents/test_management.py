"""Agents, models, tools and the fleet over HTTP (contract part 40, 1.4, 1.13, 2.1, 3.1)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.agents import service
from app.core.platform import Platform
from tests.fakes.model_server import ModelServer
from tests.support.agents import MANIFEST, ask, install_agent
from tests.support.api import ApiClient, error

MODEL = {"id": "m1", "name": "One", "provider": "OpenAI", "model": "gpt"}


def test_agent_object(platform: Platform, admin: ApiClient) -> None:
    install_agent(
        platform,
        admin,
        description="Counts",
        supervision={
            "mode": "supervised",
            "policies": [{"action": "query", "rateLimit": {"max": 3, "window": 60}}],
        },
    )
    agent = admin.get("/apps/stock/agent").json
    assert agent == {
        "app_id": "stock",
        "name": "Stock keeper",
        "description": "Counts",
        "config": {
            "systemPrompt": "You keep the stock.",
            "memory": {"enabled": False},
            "limits": {"maxTurns": 50, "maxContextTokens": 100000, "keepRecentMessages": 10},
            "supervision": {
                "mode": "supervised",
                "policies": [{"action": "query", "rateLimit": {"max": 3, "window": "60"}}],
            },
        },
        "user_id": agent["user_id"],
    }
    assert admin.get("/agents").json == [agent]
    assert admin.get("/apps?type=agent").json[0]["type"] == "agent"


@pytest.mark.usefixtures("stock")
def test_changes(admin: ApiClient) -> None:
    assert admin.patch("/agents/stock", json={}).json == {"status": "ok"}
    body = {"name": "Keeper", "description": "x"}
    assert admin.patch("/agents/stock", json=body).status_code == 200
    agent = admin.get("/apps/stock/agent").json
    assert (agent["name"], agent["description"]) == ("Keeper", "x")
    admin.patch("/agents/stock", json={"description": None})
    assert admin.get("/apps/stock/agent").json["description"] is None
    assert admin.get("/apps/stock/agent").json["name"] == "Keeper"
    assert error(admin.patch("/agents/ghost", json={})) == (404, "agent 'ghost' not found")
    assert error(admin.patch("/agents/stock", json={"name": ""}))[0] == 400
    assert error(admin.patch("/agents/stock", json={"name": 5})) == (
        400,
        "field 'name' must be a string",
    )
    peer = admin.sign_up("peer@example.com")
    for method in ("patch", "delete"):
        answer = getattr(peer, method)("/agents/stock", json={})
        assert error(answer) == (403, "missing permission: admin:agents.manage")


@pytest.mark.usefixtures("stock")
def test_uninstalling_removes_the_agent(platform: Platform, admin: ApiClient) -> None:
    assert admin.delete("/apps/stock").status_code == 200
    assert admin.get("/agents").json == []
    install_agent(platform, admin)
    assert len(admin.get("/agents").json) == 1


def test_models(admin: ApiClient) -> None:
    created = admin.post("/llm-models", MODEL)
    assert created.status_code == 201
    assert created.json == {**MODEL, "config": {}, "is_default": False}
    assert error(admin.post("/llm-models", MODEL)) == (409, "model 'm1' already exists")
    second = {**MODEL, "id": "m2", "is_default": True}
    admin.post("/llm-models", second)
    assert admin.put("/llm-models/m1/default").status_code == 204
    rows = admin.get("/llm-models").json
    assert [(row["id"], row["is_default"]) for row in rows] == [("m1", True), ("m2", False)]
    replaced = {"id": "x", "name": "N", "provider": "anthropic", "model": "c", "is_default": True}
    assert admin.put("/llm-models/m2", replaced).status_code == 204
    rows = admin.get("/llm-models").json
    assert [(row["id"], row["is_default"]) for row in rows] == [("m1", False), ("m2", True)]
    assert admin.delete("/llm-models/m1").status_code == 204
    for answer in (
        admin.delete("/llm-models/m1"),
        admin.put("/llm-models/m1", replaced),
        admin.put("/llm-models/m1/default"),
    ):
        assert error(answer) == (404, "model 'm1' not found")


def test_bad_models(admin: ApiClient) -> None:
    hint = "store the key as a secret and name it in api_key_secret"
    for change, text in (
        ({"provider": "acme"}, "unknown provider 'acme'"),
        ({"config": {"api_key": "sk-1"}}, hint),
        ({"config": {"headers": {"Authorization": "Bearer x"}}}, hint),
        ({"config": {"max_tokens": "9"}}, "field 'config.max_tokens' must be an integer"),
        ({"config": {"base_url": "ftp://x"}}, "field 'config.base_url' must be a URL"),
        ({"config": []}, "field 'config' must be an object"),
        ({"id": "a b"}, "id must be 1-64 letters, digits, '.', '_' or '-'"),
        ({"model": None}, "field 'model' is required"),
    ):
        assert error(admin.post("/llm-models", {**MODEL, **change})) == (400, text)
    assert admin.get("/llm-models").json == []


@pytest.mark.usefixtures("stock", "worker")
def test_which_model_a_run_uses(platform: Platform, admin: ApiClient, server: ModelServer) -> None:
    config = {"base_url": server.v1}
    for name in ("old", "default", "named"):
        body = {**MODEL, "id": name, "model": name, "config": config}
        admin.post("/llm-models", {**body, "is_default": name == "default"})
    for _ in range(3):
        server.say("ok")
    ask(admin, "x")
    install_agent(platform, admin, model="named")
    ask(admin, "x")
    install_agent(platform, admin, model="ghost")
    admin.delete("/llm-models/default")
    ask(admin, "x")
    assert [r.body["model"] for r in server.requests] == ["default", "named", "old"]


@pytest.mark.usefixtures("stock")
def test_tools_directly(admin: ApiClient) -> None:
    names = [tool["name"] for tool in admin.get("/tools").json]
    assert names == sorted(names)
    assert {"query_data", "mutate_data", "call_action", "list_apps"} <= set(names)

    def execute(name: str, client: ApiClient = admin, **args: Any) -> Any:
        return client.post(f"/tools/{name}/execute", {"appId": "stock", "args": args})

    made = execute("mutate_data", entity="moves", action="create", data={"item": "a"})
    assert (made.status_code, made.json["item"]) == (200, "a")
    found = execute("query_data", entity="moves", where={"item": {"$in": ["a", "b"]}}).json
    assert found["total"] == 1
    assert len(execute("query_data", entity="moves").json) == 1
    gone = execute("mutate_data", entity="moves", action="delete", id=made.json["id"]).json
    assert gone == {"deleted": True, "id": made.json["id"]}
    again = execute("mutate_data", entity="moves", action="delete", id=made.json["id"])
    assert error(again) == (404, "record not found")
    described = execute("describe_app", app="stock").json
    assert [entity["entityName"] for entity in described["dataContract"]] == ["moves", "notes"]
    assert error(execute("describe_app", app="ghost")) == (404, "app 'ghost' not found")
    assert error(execute("ghost")) == (404, "unknown tool: 'ghost'")
    assert error(execute("invoke_agent", app_id="x", message="y")) == (
        400,
        "invoke_agent only works inside an agent run",
    )
    assert error(execute("query_data"))[0] == 400
    peer = admin.sign_up("peer@example.com")
    assert error(execute("query_data", peer, entity="moves")) == (
        403,
        "missing permission: tool:query_data",
    )
    admin.post("/roles", {"name": "t", "permissions": ["tool:*"]})
    admin.post("/roles/assign", {"userId": peer.user_id, "role": "t"})
    assert error(execute("query_data", peer, entity="moves")) == (
        403,
        "missing permission: app:stock:moves.read",
    )
    assert execute("list_apps", peer).json == []
    assert execute("list_apps").json == [
        {"id": "stock", "name": "Stock", "entities": ["moves", "notes"]}
    ]


@pytest.mark.usefixtures("stock", "worker")
def test_fleet_stream(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(platform, admin, {**MANIFEST, "appId": "other", "name": "Other"})
    response = admin.get("/agents/stream?app_id=stock")
    assert response.content_type == "text/event-stream"
    lines: list[str] = []
    ready, done = threading.Event(), threading.Event()

    def read() -> None:
        for piece in response.iter_encoded():
            ready.set()
            lines.append(piece.decode())
            if '"_event":"done"' in lines[-1]:
                done.set()
                return

    threading.Thread(target=read, daemon=True).start()
    assert ready.wait(10)
    model.say("for the other")
    ask(admin, "x", "other")
    model.say("hello")
    talk = ask(admin, "x")
    assert done.wait(10)
    text = "".join(lines)
    assert "event:" not in text
    assert '"app_id":"other"' not in text
    assert f'"run_id":"{talk.run_id}","_event":"chunk"' in text
    peer = admin.sign_up("peer@example.com")
    assert error(peer.get("/agents/stream")) == (403, "missing permission: admin:agents.manage")


def test_the_assistant_is_seeded_once(platform: Platform, client: ApiClient) -> None:
    with platform.uow() as uow:
        service.seed_assistant(uow)
    admin = client.sign_up("first@example.com")
    assert [agent["app_id"] for agent in admin.get("/agents").json] == ["assistant"]
    assert admin.delete("/apps/assistant").status_code == 200
    with platform.uow() as uow:
        service.seed_assistant(uow)
    assert admin.get("/agents").json == []
