"""Invoking an agent (contract part 40, 1.5, 1.6, 1.8; checks 1 to 3)."""

from __future__ import annotations

import io
import json
from uuid import uuid4

import pytest

from app.agents import attachments
from app.agents.authority import agent_user_id
from app.core.platform import Platform
from app.files import service as files
from tests.fakes.model_server import Call, ModelServer
from tests.support.agents import MANIFEST, ask, install_agent, register_model
from tests.support.api import ApiClient, error

pytestmark = pytest.mark.usefixtures("worker")


@pytest.mark.parametrize("api", ["messages", "chat", "responses"])
def test_a_prompt_is_enough(
    platform: Platform, admin: ApiClient, server: ModelServer, api: str
) -> None:
    register_model(admin, server, api)
    install_agent(platform, admin)
    server.say("No moves", " today.", usage=(800, 12))
    talk = ask(admin, "How many moves today?")
    assert talk.kinds == ["chunk", "chunk", "done"]
    assert [event.seq for event in talk.events] == [1, 2, 3]
    assert talk.last.data == {
        "response": "No moves today.",
        "session_id": talk.session_id,
        "tokens": 812,
    }
    detail = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}").json
    assert [(m["role"], m["content"], m["tokenCount"]) for m in detail["messages"]] == [
        ("user", "How many moves today?", 0),
        ("assistant", "No moves today.", 812),
    ]
    assert (detail["title"], detail["status"]) == ("How many moves today?", "active")
    assert (detail["totalTokens"], detail["turnCount"]) == (812, 1)


@pytest.mark.usefixtures("stock")
def test_tool_turn(admin: ApiClient, model: ModelServer) -> None:
    admin.post("/apps/stock/collections/moves", {"item": "bolt", "amount": 3})
    model.call(
        Call("query_data", {"entity": "moves", "limit": 5}),
        Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}}),
        text=["Looking."],
    )
    model.say("One move.")
    talk = ask(admin, "Look")
    assert talk.kinds == [
        "chunk",
        "tool_call_started",
        "tool_call_completed",
        "tool_call_started",
        "tool_call_completed",
        "chunk",
        "chunk",
        "done",
    ]
    assert talk.text == talk.last.data["response"] == "Looking.\n\nOne move."
    started, completed = talk.events[1].data, talk.events[2].data
    assert started["input"] == {"entity": "moves", "limit": 5}
    assert completed["call_id"] == started["call_id"]
    assert completed["error"] is None
    assert completed["output"]["total"] == 1
    assert completed["output"]["data"][0]["item"] == "bolt"
    assert admin.get("/apps/stock/collections/notes").json[0]["body"] == "x"
    entry = admin.get("/audit?table_name=notes").json[0]
    assert entry["actor_uid"] == str(agent_user_id("stock"))
    assert entry["delegator_uid"] == admin.user_id
    detail = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}").json
    calls = detail["messages"][1]["toolCalls"]
    assert [call["tool_name"] for call in calls] == ["query_data", "mutate_data"]
    assert {call["status"] for call in calls} == {"completed"}
    assert "toolCalls" not in detail["messages"][0]
    timeline = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}/events").json
    assert [entry["type"] for entry in timeline].count("tool_call") == 2
    second = model.requests[1].body["messages"]
    assert [m["role"] for m in second] == ["system", "user", "assistant", "tool", "tool"]


@pytest.mark.usefixtures("stock")
def test_model_sees_prompt_context_and_entities(admin: ApiClient, model: ModelServer) -> None:
    model.say("ok")
    ask(admin, "hi")
    body = model.requests[0].body
    system = body["messages"][0]["content"]
    assert system.startswith("You keep the stock.")
    assert "stock (Stock)" in system
    assert "admin@example.com" in system
    tools = {tool["function"]["name"]: tool["function"] for tool in body["tools"]}
    assert (
        "moves: item (text, required), amount (number), kind (text, one of in|out)"
        in (tools["query_data"]["description"])
    )


NESTED = '{"entity": ' + "[" * 20_000 + "]" * 20_000 + "}"
FAILING = [
    (Call("nonsense", {}), "unknown tool: nonsense"),
    (Call("query_data", '{"entity": '), "tool arguments are not valid JSON"),
    (Call("query_data", "[1]"), "tool arguments are not valid JSON"),
    (Call("query_data", NESTED), "tool arguments are not valid JSON"),
    (Call("query_data", {"entity": "ghosts"}), "missing permission: app:stock:ghosts.read"),
    (
        Call("query_data", {"entity": "moves", "limit": 5000}),
        "args: $.limit: does not fit maximum 1000",
    ),
    (Call("query_data", {}), "args: $: 'entity' is a required property"),
    (
        Call("mutate_data", {"entity": "moves", "action": "create", "data": {}}),
        "data needs at least one writable field",
    ),
    (
        Call("mutate_data", {"entity": "moves", "action": "delete", "id": "7"}),
        "id must be a UUID",
    ),
    (
        Call("mutate_data", {"entity": "moves", "action": "delete", "id": str(uuid4())}),
        "record not found",
    ),
    (
        Call("mutate_data", {"entity": "moves", "action": "bulk_create", "data": []}),
        "bulk_create takes 1 to 1000 records",
    ),
    (Call("describe_app", {"app": "nope"}), "missing permission: app:nope:*"),
    (
        Call("call_action", {"app": "stock", "action": "odd"}),
        "input: $: the schema it must fit is not valid",
    ),
    (Call("invoke_agent", {"app_id": "stock", "message": "x"}), "an agent cannot invoke itself"),
]


def test_failed_calls_go_back_to_the_model(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    # Nothing is fetched for a reference to another address.
    odd = {"id": "odd", "name": "Odd", "inputSchema": {"$ref": f"{model.root}/schema"}}
    install_agent(platform, admin, {**MANIFEST, "actions": [odd]})
    model.call(*[call for call, _ in FAILING])
    model.say("I see.")
    talk = ask(admin, "do it")
    assert talk.kinds == [
        *["tool_call_started", "tool_call_completed"] * len(FAILING),
        "chunk",
        "done",
    ]
    completed = talk.of_kind("tool_call_completed")
    answers = [m["content"] for m in model.requests[1].body["messages"] if m["role"] == "tool"]
    for event, answer, (_, text) in zip(completed, answers, FAILING, strict=True):
        assert event["error"].startswith(text)
        assert event["output"] is None
        assert answer == event["error"]
    assert len(model.requests) == 2


@pytest.mark.usefixtures("stock")
def test_turn_limit(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(platform, admin, limits={"maxTurns": 2})
    for _ in range(3):
        model.call(Call("list_apps"))
    talk = ask(admin, "loop")
    assert talk.last.data["error"] == "turn limit of 2 reached"
    assert len(model.requests) == 2


def test_token_budget(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(platform, admin, limits={"maxTokens": 100})
    model.call(Call("list_apps"), usage=(90, 20))
    talk = ask(admin, "spend")
    assert talk.last.data["error"] == "token limit of 100 reached"


@pytest.mark.usefixtures("stock")
def test_missing_usage_leaves_tokens_unknown(admin: ApiClient, model: ModelServer) -> None:
    model.say("hi", usage=None)
    assert ask(admin, "x").last.data["tokens"] is None


@pytest.mark.usefixtures("stock")
def test_provider_errors_end_the_run(admin: ApiClient, model: ModelServer) -> None:
    model.say(status=400)
    talk = ask(admin, "x")
    assert talk.kinds == ["error"]
    assert talk.last.data["error"] == "model provider error: 400"
    detail = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}").json
    assert [m["role"] for m in detail["messages"]] == ["user"]
    model.say("better")
    again = ask(admin, "y", session_id=talk.session_id)
    assert again.last.kind == "done"


@pytest.mark.usefixtures("stock")
def test_text_before_a_failure_is_kept(admin: ApiClient, model: ModelServer) -> None:
    model.say("Half", "never", die_after=2)
    talk = ask(admin, "x")
    assert talk.kinds == ["chunk", "error"]
    detail = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}").json
    assert detail["messages"][1]["content"] == "Half"
    timeline = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}/events").json
    assert timeline[-1]["type"] == "error"
    assert timeline[-1]["error"] == "model provider error: connection failed"


@pytest.mark.usefixtures("stock")
def test_odd_characters_do_no_harm(admin: ApiClient, model: ModelServer) -> None:
    data = {"body": "a\0b\ud83d"}
    note = {"entity": "notes", "action": "create", "data": data}
    model.call(Call("mutate_data", note), Call("gh\0st", {}), text=["nul \0", "half \ud83d"])
    model.say("ok")
    talk = ask(admin, "x")
    assert talk.last.kind == "done", talk.last
    assert talk.text == "nul half \ufffd\n\nok"
    assert admin.get("/apps/stock/collections/notes").json[0]["body"] == "ab\ufffd"


def test_missing_credentials(platform: Platform, admin: ApiClient) -> None:
    install_agent(platform, admin)
    body = {"id": "m", "name": "M", "provider": "openai", "model": "gpt"}
    admin.post("/llm-models", body)
    talk = ask(admin, "x")
    assert talk.last.data["error"] == "model credentials are missing: OPENAI_API_KEY"


KEY = "sk-canary-8842"


@pytest.mark.usefixtures("stock")
def test_keys_come_from_secrets_and_go_nowhere_else(
    platform: Platform, admin: ApiClient, server: ModelServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.expected_key = KEY
    register_model(admin, server)
    admin.post("/platform/secrets", {"key": "OPENAI_API_KEY", "value": "wrong-" + KEY})
    refused = ask(admin, "x")
    assert refused.last.data["error"] == "model provider error: 401"
    assert (
        admin.post("/apps/stock/secrets", {"key": "OPENAI_API_KEY", "value": KEY}).status_code < 300
    )
    server.say("hello")
    talk = ask(admin, "y")
    assert talk.last.data["response"] == "hello"
    with platform.engine.connect() as connection:
        for table in ("agent_runs", "agent_events", "agent_messages", "llm_models"):
            rows = connection.exec_driver_sql(f"SELECT t::text FROM trellis.{table} t").scalars()
            assert not [row for row in rows if "canary" in row]
    everything = [talk.events, refused.events, admin.get("/llm-models").json]
    assert "canary" not in f"{everything}{capfd.readouterr()}"


@pytest.mark.usefixtures("stock")
def test_files_of_a_message(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    form = {"file": (io.BytesIO(b"bolt,3"), "moves.csv", "text/csv")}
    sent = admin.request(
        "POST", "/apps/stock/storage/upload", data=form, content_type="multipart/form-data"
    )
    file_id = sent.json["file_id"]
    model.say("Three.")
    ask(admin, "How many?", file_ids=[file_id])
    assert "[file moves.csv]\\nbolt,3" in json.dumps(model.requests[0].body)
    block = {"type": "file", "file_id": file_id, "name": "moves.csv", "content_type": "text/csv"}
    with platform.uow() as uow:
        (own,) = attachments.addresses(uow, "http://x/", "stock", [block, {"type": "text"}])
    assert (own["name"], own["content_type"]) == ("moves.csv", "text/csv")
    assert admin.http.get(own["url"].removeprefix("http://x")).data == b"bolt,3"
    admin.delete(f"/apps/stock/storage/{file_id}")
    with platform.uow() as uow:
        assert attachments.addresses(uow, "http://x", "stock", [block]) == []


@pytest.mark.usefixtures("stock", "model")
def test_files_of_a_message_have_a_limit_together(platform: Platform, admin: ApiClient) -> None:
    ids = []
    for size in (11 << 20, 10 << 20):
        content = files.Content(
            "big.bin", "application/octet-stream", size, io.BytesIO(bytes(size))
        )
        with platform.uow() as uow:
            stored = files.store(uow, None, app_id="stock", content=content, quota=0)
        ids.append(str(stored.id))
    body = {"message": "x", "file_ids": ids}
    refused = admin.post("/apps/stock/agent/invoke", body)
    assert error(refused) == (400, "attachments exceed 20 MiB")


# --- refusals before the stream --------------------------------------------------------------


BAD_FILES = "file_ids must be an array of at most 10 file UUIDs"


@pytest.mark.usefixtures("stock", "model")
def test_bad_requests(admin: ApiClient) -> None:
    for body, text in (
        ({}, "field 'message' is required"),
        ({"message": 5}, "field 'message' must be a string"),
        ({"message": "  "}, "message must not be empty"),
        ({"message": "x" * 200_001}, "message is longer than 200000 characters"),
        ({"message": "x", "session_id": "7"}, "session_id must be a UUID"),
        ({"message": "x", "file_ids": "7"}, BAD_FILES),
        ({"message": "x", "file_ids": ["7"]}, BAD_FILES),
        ({"message": "x", "file_ids": [str(uuid4()) for _ in range(11)]}, BAD_FILES),
    ):
        assert error(admin.post("/apps/stock/agent/invoke", body)) == (400, text)
    assert admin.get("/apps/stock/agent/sessions").json == []


@pytest.mark.usefixtures("stock", "model")
def test_other_refusals(platform: Platform, admin: ApiClient) -> None:
    other = admin.sign_up("other@example.com")
    assert error(other.post("/apps/stock/agent/invoke", {"message": "x"})) == (
        403,
        "missing permission: app:stock:invoke",
    )
    assert error(other.post("/apps/ghost/agent/invoke", {"message": "x"})) == (
        403,
        "missing permission: app:ghost:invoke",
    )
    assert error(admin.post("/apps/ghost/agent/invoke", {"message": "x"})) == (
        404,
        "app 'ghost' has no agent",
    )
    missing = str(uuid4())
    assert error(
        admin.post("/apps/stock/agent/invoke", {"message": "x", "file_ids": [missing]})
    ) == (404, f"file {missing} not found in app 'stock'")
    assert admin.get("/apps/stock/agent/sessions").json == []


@pytest.mark.usefixtures("stock")
def test_without_a_model(admin: ApiClient) -> None:
    assert error(admin.post("/apps/stock/agent/invoke", {"message": "x"})) == (
        503,
        "no language model is configured",
    )
    assert admin.get("/apps/stock/agent/sessions").json == []
