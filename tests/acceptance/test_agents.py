"""Agents on real web, worker, beat and app processes, against the fake model server."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Platform, StartPlatform, archive
from tests.fakes.model_server import Answer, Call, ModelServer, model_server
from tests.support.agents import Event, parse_stream
from tests.support.stack import wait_until

MANIFEST = {
    "name": "Desk",
    "dataContract": [{"entityName": "notes", "fields": [{"name": "body", "type": "text"}]}],
    "actions": [{"id": "shout", "name": "Shout", "inputSchema": {"required": ["text"]}}],
}
PROMPT = "You keep notes."
WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}})


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def definition(**options: Any) -> str:
    return json.dumps({"name": "Desk", "systemPrompt": "./agent/system.md", **options})


def prepare(platform: Platform, model: ModelServer, app_id: str, **files: str) -> None:
    """Install an app with an agent and make the fake server the default model."""
    body = {"appId": app_id, **MANIFEST}
    assert platform.admin.post("/apps", json=body).status_code == 200
    deploy(platform, app_id, **files)
    registered = {
        "id": app_id,
        "name": "Fake",
        "provider": "openai",
        "model": "m",
        "config": {"base_url": model.v1},
        "is_default": True,
    }
    assert platform.admin.post("/llm-models", json=registered).status_code == 201


def deploy(platform: Platform, app_id: str, **files: str) -> httpx.Response:
    files = {"agent.json": definition(), "agent/system.md": PROMPT, **files}
    sent = {"archive": archive(**files)}
    answer = platform.admin.post(f"/apps/{app_id}/deploy", files=sent)
    assert answer.status_code == 200, answer.text
    return answer


class Stream:
    """An invoke whose stream is read on a thread."""

    def __init__(self, platform: Platform, app_id: str, message: str) -> None:
        self._body: list[str] = []
        self._ready = threading.Event()
        self.headers: Any = None
        path = f"/apps/{app_id}/agent/invoke"
        self._thread = threading.Thread(
            target=self._read, args=(platform, path, message), daemon=True
        )
        self._thread.start()
        assert self._ready.wait(20)

    def _read(self, platform: Platform, path: str, message: str) -> None:
        with platform.stack.client() as client:
            client.headers.update(platform.admin.headers)
            body = {"message": message}
            with client.stream("POST", path, json=body, timeout=90) as response:
                self.headers = response.headers
                self._ready.set()
                for piece in response.iter_text():
                    self._body.append(piece)

    @property
    def events(self) -> list[Event]:
        return parse_stream("".join(self._body))

    def wait_for(self, kind: str, timeout: float = 20) -> dict[str, Any]:
        def found() -> list[Event]:
            return [event for event in self.events if event.kind == kind]

        return wait_until(found, timeout=timeout, what=kind)[0].data

    def finish(self, timeout: float = 30) -> list[Event]:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), self.events
        return self.events


def ask(platform: Platform, app_id: str, message: str) -> list[Event]:
    return Stream(platform, app_id, message).finish()


def test_agent_json_and_a_prompt_are_a_complete_app(
    shared_platform: Platform, model: ModelServer
) -> None:
    prepare(shared_platform, model, "desk")
    assert shared_platform.admin.get("/apps/desk/worker/status").json()["status"] == "stopped"
    agent = shared_platform.admin.get("/apps/desk/agent").json()
    assert agent["config"]["systemPrompt"] == "./agent/system.md"
    model.call(WRITE, text=["Writing."])
    model.say("Done.")
    events = ask(shared_platform, "desk", "note x")
    assert [e.kind for e in events] == [
        "chunk",
        "tool_call_started",
        "tool_call_completed",
        "chunk",
        "chunk",
        "done",
    ]
    assert events[-1].data["response"] == "Writing.\n\nDone."
    assert model.requests[0].body["messages"][0]["content"].startswith(PROMPT)


def test_invalid_definitions_change_nothing(shared_platform: Platform, model: ModelServer) -> None:
    prepare(shared_platform, model, "strictdesk")
    before = shared_platform.admin.get("/apps/strictdesk/agent").json()
    for files, text in (
        (
            {"agent.json": definition(limits={"maxTurns": 0})},
            "agent.json is invalid: limits.maxTurns: must be an integer from 1 to 200",
        ),
        (
            {"agent.json": definition(), "README.md": "x"},
            "agent.json is invalid: systemPrompt: file './agent/system.md' is not in the archive",
        ),
    ):
        answer = shared_platform.admin.post(
            "/apps/strictdesk/deploy", files={"archive": archive(**files)}
        )
        assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert shared_platform.admin.get("/apps/strictdesk/agent").json() == before


ACTIONS = """
from trellis_worker import serve
def shout(params, caller, ctx):
    note = ctx.collection("notes").insert({"body": params["text"].upper()})
    return {"said": note["body"], "as": caller["userId"], "perms": caller.get("effectivePerms")}
serve(rpc={"shout": shout})
"""


def test_actions_run_as_the_invoker_with_narrowed_rights(
    shared_platform: Platform, model: ModelServer
) -> None:
    prepare(shared_platform, model, "actor", **{"worker.py": ACTIONS})
    model.call(
        Call("call_action", {"app": "actor", "action": "shout", "input": {"text": "hey"}}),
        Call("call_action", {"app": "actor", "action": "shout", "input": {}}),
    )
    model.say("ok")
    done = [e.data for e in ask(shared_platform, "actor", "x") if e.kind == "tool_call_completed"]
    me = shared_platform.admin.get("/auth/me").json()["id"]
    assert done[0]["error"] is None, done
    assert (done[0]["output"]["said"], done[0]["output"]["as"]) == ("HEY", me)
    assert "*" not in done[0]["output"]["perms"]
    assert "app:actor:notes.create" in done[0]["output"]["perms"]
    assert done[1]["error"] == "input: 'text' is a required property"
    path = "/tools/call_action/execute"
    body = {"appId": "actor", "args": {"app": "actor", "action": "shout", "input": {"text": "yo"}}}
    answer = shared_platform.admin.post(path, json=body)
    assert (answer.status_code, answer.json()["said"]) == (200, "YO")


OWN_LOOP = """
from trellis_worker import serve
def agent(invoke, ctx):
    yield "Hello "
    try:
        ctx.call_tool("query_data", {"entity": "secrets"})
    except Exception as exc:
        yield f"[{exc}] "
    row = ctx.call_tool("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "own"}})
    yield f"{row['body']} {len(ctx.agent_config['tool_descriptors'])}"
    if invoke["message"] == "fail":
        raise ValueError("no luck")
serve(agent=agent)
"""


def test_a_worker_with_its_own_loop(shared_platform: Platform, model: ModelServer) -> None:
    supervision = {
        "mode": "supervised",
        "policies": [{"action": "mutate", "requires": "approval"}],
    }
    files = {"worker.py": OWN_LOOP, "agent.json": definition(supervision=supervision)}
    prepare(shared_platform, model, "own", **files)
    stream = Stream(shared_platform, "own", "go")
    asked = stream.wait_for("approval_required")
    run = shared_platform.admin.get("/apps/own/agent/sessions").json()[0]
    assert run["status"] == "waiting_approval"
    path = f"/apps/own/agent/approvals/{asked['approval_id']}"
    assert shared_platform.admin.post(path, json={"action": "approve"}).status_code == 200
    events = stream.finish()
    assert events[-1].kind == "done", events
    response = events[-1].data["response"]
    assert response.startswith("Hello [missing permission: app:own:secrets.read] own ")
    assert response == "".join(e.data["delta"] for e in events if e.kind == "chunk")
    assert model.requests == []
    stream = Stream(shared_platform, "own", "fail")
    asked = stream.wait_for("approval_required")
    path = f"/apps/own/agent/approvals/{asked['approval_id']}"
    shared_platform.admin.post(path, json={"action": "reject", "reason": "no"})
    assert stream.finish()[-1].data["error"] == "agent handler failed: rejected: no"


def test_crons_run_agents(shared_platform: Platform, model: ModelServer) -> None:
    prepare(shared_platform, model, "clock")
    model.script = lambda _seen: Answer(text=["Tick."])
    body = {"name": "often", "schedule": "1 seconds", "payload": {"message": "What time is it?"}}
    cron = shared_platform.admin.post("/apps/clock/crons", json=body)
    assert cron.status_code in {200, 201}, cron.text

    def ran() -> bool:
        rows = shared_platform.admin.get("/apps/clock/agent/sessions").json()
        return any(row["turn_count"] for row in rows)

    wait_until(ran, timeout=30, what="a scheduled run")
    wait_until(lambda: shared_platform.archived("clock"), what="its message to be settled")
    session = shared_platform.admin.get("/apps/clock/agent/sessions").json()[-1]
    assert session["title"] == "What time is it?"
    shared_platform.admin.delete(f"/apps/clock/crons/{cron.json()['id']}")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_another_node_takes_the_run_up(
    start_platform: StartPlatform, model: ModelServer, how: signal.Signals
) -> None:
    platform = start_platform("web", "beat", AGENT_HEARTBEAT="0.5")
    platform.stack.start("one", "worker")
    wait_until(lambda: "node_started" in platform.stack.log("one"), timeout=30, what="node one")
    prepare(platform, model, "desk")
    hold = threading.Event()
    model.call(WRITE, text=["One."])
    model.answers.append(Answer(text=["never heard"], hold=hold))
    stream = Stream(platform, "desk", "go")
    stream.wait_for("tool_call_completed")
    wait_until(lambda: len(model.requests) == 2, what="the second call")
    platform.stack.start("two", "worker")
    wait_until(lambda: "node_started" in platform.stack.log("two"), timeout=30, what="node two")
    model.script = lambda _seen: Answer(text=["Two."])
    if how is signal.SIGTERM:
        platform.stack.processes["one"].send_signal(how)
        time.sleep(0.5)
        hold.set()
    else:
        platform.stack.kill("one", how)
        hold.set()
    events = stream.finish(60)
    assert events[-1].kind == "done", events
    assert events[-1].data["response"] == "One.\n\nTwo."
    rows = platform.admin.get("/apps/desk/collections/notes").json()
    assert len(rows) == 1


def test_five_hundred_open_streams_on_one_web_process(
    start_platform: StartPlatform, model: ModelServer
) -> None:
    platform = start_platform("web", "worker", WEB_CONCURRENCY="1")
    prepare(platform, model, "desk")
    model.say("warm")
    ask(platform, "desk", "warm up")
    hold = threading.Event()
    model.answers.append(Answer(text=["now"], hold=hold))
    first = Stream(platform, "desk", "go")
    path = f"/api/v1/apps/desk/agent/runs/{first.headers['X-Run-Id']}/stream"

    async def follow(client: httpx.AsyncClient) -> float:
        async with client.stream("GET", path) as response:
            assert response.status_code == 200
            arrived = 0.0
            async for line in response.aiter_lines():
                if line == "event: chunk":
                    arrived = time.monotonic()
            return arrived

    async def everybody() -> tuple[list[float], float, bool]:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": platform.admin.headers["Authorization"]}
        async with httpx.AsyncClient(
            base_url=platform.stack.url, headers=headers, timeout=60, limits=limits
        ) as client:
            streams = [asyncio.create_task(follow(client)) for _ in range(500)]
            await asyncio.sleep(8)
            health = (await client.get("/health")).status_code == 200
            released = time.monotonic()
            hold.set()
            return await asyncio.gather(*streams), released, health

    arrived, released, healthy = asyncio.run(everybody())
    assert healthy
    late = sorted(at - released for at in arrived)
    assert late[0] > 0
    assert late[-1] < 5, late[-5:]
    assert first.finish()[-1].kind == "done"
