"""The three wire formats against a server that misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.agents.providers.base import (
    ModelConfig,
    ModelReply,
    ModelRequest,
    ProviderError,
    Stop,
    ToolSpec,
)
from app.agents.providers.calling import complete, open_provider
from tests.fakes.model_server import Call, ModelServer, model_server

KEY = "sk-canary-93ab"
APIS = ["messages", "chat", "responses"]
TOOLS = (ToolSpec("query_data", "Reads records", {"type": "object", "properties": {}}),)
HELLO = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


def config(server: ModelServer, api: str, **options: Any) -> ModelConfig:
    return ModelConfig(
        provider="anthropic" if api == "messages" else "openai",
        model="test-model",
        api=api,
        base_url=server.root if api == "messages" else server.v1,
        **{"api_key": KEY, **options},
    )


def ask(
    configured: ModelConfig, *messages: dict[str, Any], waits: list[float] | None = None
) -> tuple[ModelReply, list[str]]:
    heard: list[str] = []
    provider = open_provider(configured)
    try:
        reply = complete(
            provider,
            ModelRequest("Be brief.", messages or (HELLO,), TOOLS),
            heard.append,
            wait=(waits if waits is not None else []).append,
        )
    finally:
        provider.close()
    return reply, heard


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("split", [0, 1, 7])
def test_streams_text_and_counts_tokens(server: ModelServer, api: str, split: int) -> None:
    server.say("Grüß", " dich,", " Wörld 🌍", usage=(11, 4), split=split)
    reply, heard = ask(config(server, api))
    assert heard == ["Grüß", " dich,", " Wörld 🌍"]
    assert reply == ModelReply("Grüß dich, Wörld 🌍", (), 15, Stop.END)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("whole", [False, True])
def test_reads_tool_calls(server: ModelServer, api: str, whole: bool) -> None:
    calls = [Call("query_data", {"entity": "moves", "limit": 5}), Call("list_apps", {})]
    server.call(*calls, text=["Looking."], whole=whole, split=3)
    reply, heard = ask(config(server, api))
    assert "".join(heard) == "Looking."
    assert reply.stop is Stop.TOOLS
    assert [(use.name, use.input) for use in reply.tool_uses] == [
        ("query_data", {"entity": "moves", "limit": 5}),
        ("list_apps", {}),
    ]
    assert len({use.provider_id for use in reply.tool_uses}) == 2


@pytest.mark.parametrize("api", APIS)
def test_arguments_that_are_no_json_are_marked(server: ModelServer, api: str) -> None:
    server.call(Call("query_data", '{"entity": '))
    reply, _ = ask(config(server, api))
    assert reply.tool_uses[0].input is None


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("finish", "stop"), [("length", Stop.LENGTH), ("content_filter", Stop.REFUSED)]
)
def test_reports_why_it_stopped(server: ModelServer, api: str, finish: str, stop: Stop) -> None:
    server.say("Half an", stop=finish)
    reply, _ = ask(config(server, api))
    assert (reply.text, reply.stop) == ("Half an", stop)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("whole", [False, True])
def test_missing_usage_is_unknown(server: ModelServer, api: str, whole: bool) -> None:
    server.say("Hi", usage=None, whole=whole)
    assert ask(config(server, api))[0].tokens is None


@pytest.mark.parametrize("api", APIS)
def test_rate_limit_waits_as_told(server: ModelServer, api: str) -> None:
    server.say(status=429, headers={"Retry-After": "7"})
    server.say(status=529)
    server.say(status=503, headers={"Retry-After": "900"})
    server.say("Now.")
    waits: list[float] = []
    reply, _ = ask(config(server, api), waits=waits)
    assert reply.text == "Now."
    assert waits[0] == 7.0
    assert 2.0 <= waits[1] <= 2.25
    assert waits[2] == 60.0


@pytest.mark.parametrize("api", APIS)
def test_gives_up_after_three_retries(server: ModelServer, api: str) -> None:
    for _ in range(5):
        server.say(status=500)
    waits: list[float] = []
    with pytest.raises(ProviderError, match=r"\A500\Z"):
        ask(config(server, api), waits=waits)
    assert len(server.requests) == 4
    assert [int(w) for w in waits] == [1, 2, 4]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_final(server: ModelServer, api: str, status: int) -> None:
    server.say(status=status, error=f"you sent {KEY}")
    with pytest.raises(ProviderError) as caught:
        ask(config(server, api))
    assert caught.value.reason == str(status)
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("api", APIS)
def test_death_before_any_text_is_retried(server: ModelServer, api: str) -> None:
    server.say("Never heard", die_after=1)
    server.say("Again.")
    reply, heard = ask(config(server, api))
    assert (reply.text, heard) == ("Again.", ["Again."])


@pytest.mark.parametrize("api", APIS)
def test_death_after_text_is_final(server: ModelServer, api: str) -> None:
    after = {"messages": 4, "chat": 2, "responses": 2}[api]
    server.say("Part", "never", die_after=after)
    server.say("Not asked for")
    with pytest.raises(ProviderError, match="connection failed"):
        ask(config(server, api))
    assert len(server.requests) == 1


@pytest.mark.parametrize("api", APIS)
def test_a_stalled_server_times_out(server: ModelServer, api: str) -> None:
    for _ in range(4):
        server.say("late", stall_s=1.0)
    with pytest.raises(ProviderError, match="timed out"):
        ask(config(server, api, timeout_s=0.3))


@pytest.mark.parametrize("api", APIS)
def test_an_endless_answer_is_cut(server: ModelServer, api: str) -> None:
    server.say(*["x"] * 40, pause_s=0.05)
    with pytest.raises(ProviderError, match=r"no complete answer within 0\.5 seconds"):
        ask(config(server, api, timeout_s=0.5))


@pytest.mark.parametrize("api", APIS)
def test_no_key_means_no_header(server: ModelServer, api: str) -> None:
    server.say("Hi")
    ask(config(server, api, api_key=None))
    seen = server.requests[0]
    assert "authorization" not in seen.headers
    assert "x-api-key" not in seen.headers


@pytest.mark.parametrize("api", APIS)
def test_sends_key_headers_and_options(server: ModelServer, api: str) -> None:
    server.say("Hi")
    ask(config(server, api, max_tokens=77, temperature=0.5, headers={"X-Team": "blue"}))
    seen = server.requests[0]
    assert seen.key == KEY
    assert seen.headers["x-team"] == "blue"
    assert seen.body["temperature"] == 0.5
    assert 77 in (
        seen.body.get("max_tokens"),
        seen.body.get("max_output_tokens"),
    )
    if api == "messages":
        assert seen.headers["anthropic-version"] == "2023-06-01"
        assert seen.body["system"] == "Be brief."
        assert seen.body["tools"][0]["input_schema"]["type"] == "object"
    if api == "chat":
        assert seen.body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert seen.body["stream_options"] == {"include_usage": True}
        assert seen.body["tools"][0]["function"]["name"] == "query_data"
    if api == "responses":
        assert seen.body["instructions"] == "Be brief."
        assert seen.body["tools"][0]["name"] == "query_data"


CONVERSATION = (
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "See"},
            {"type": "image", "media_type": "image/png", "data": "aWNvbg=="},
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Looking."},
            {
                "type": "tool_use",
                "id": "u1",
                "provider_id": "p1",
                "name": "query_data",
                "input": {"entity": "a"},
            },
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "u1",
                "provider_id": "p1",
                "content": "[]",
                "is_error": False,
            }
        ],
    },
)


def test_anthropic_conversation(server: ModelServer) -> None:
    server.say("ok")
    ask(config(server, "messages"), *CONVERSATION)
    first, second, third = server.requests[0].body["messages"]
    assert first["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "aWNvbg==",
    }
    assert second["content"][1] == {
        "type": "tool_use",
        "id": "p1",
        "name": "query_data",
        "input": {"entity": "a"},
    }
    assert third["content"][0]["tool_use_id"] == "p1"


def test_chat_conversation(server: ModelServer) -> None:
    server.say("ok")
    ask(config(server, "chat"), *CONVERSATION)
    _system, user, assistant, tool = server.requests[0].body["messages"]
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,aWNvbg=="
    assert assistant["tool_calls"][0]["id"] == "p1"
    assert tool == {"role": "tool", "tool_call_id": "p1", "content": "[]"}


def test_responses_conversation(server: ModelServer) -> None:
    server.say("ok")
    ask(config(server, "responses"), *CONVERSATION)
    user, assistant, call, result = server.requests[0].body["input"]
    assert user["content"][1]["type"] == "input_image"
    assert assistant["content"] == [{"type": "output_text", "text": "Looking."}]
    assert (call["type"], call["call_id"]) == ("function_call", "p1")
    assert result == {"type": "function_call_output", "call_id": "p1", "output": "[]"}


def test_listener_may_end_the_call(server: ModelServer) -> None:
    hold = threading.Event()
    server.say("one", "two", pause_s=0.05)

    class Enough(Exception):
        pass

    def on_text(_text: str) -> None:
        raise Enough

    provider = open_provider(config(server, "chat"))
    with pytest.raises(Enough):
        complete(provider, ModelRequest("", (HELLO,)), on_text, wait=lambda _s: None)
    provider.close()
    hold.set()


def test_an_unreachable_server_is_retried_then_named() -> None:
    with model_server() as gone:
        configured = config(gone, "chat")
    waits: list[float] = []
    with pytest.raises(ProviderError, match="connection failed"):
        ask(replace(configured), waits=waits)
    assert len(waits) == 3
