"""Agents on real web, worker, beat and app processes, against the fake model server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Platform, StartPlatform, archive
from tests.fakes.mcp_pretenders import PRETENDERS
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

    def __init__(
        self, platform: Platform, app_id: str, message: str, by: httpx.Client | None = None
    ) -> None:
        self._by = by or platform.admin
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
            client.headers.update(self._by.headers)
            body = {"message": message}
            with client.stream("POST", path, json=body, timeout=90) as response:
                self.headers = response.headers
                self._ready.set()
                # A web process that is killed takes its streams with it.
                with contextlib.suppress(httpx.TransportError):
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
    assert done[1]["error"] == "input: $: 'text' is a required property"
    path = "/tools/call_action/execute"
    body = {"appId": "actor", "args": {"app": "actor", "action": "shout", "input": {"text": "yo"}}}
    answer = shared_platform.admin.post(path, json=body)
    assert (answer.status_code, answer.json()["said"]) == (200, "YO")


LAMP = """
from trellis_worker import serve
def act(params):
    if params["action"] == "break":
        return {"ok": False, "error": {"code": "NOT_FOUND", "message": "no such lamp"}}
    if params["action"] == "scene":
        return {"ok": True, "data": [params["userCredentials"]["key"], params["userId"]]}
    return {"ok": True, "data": {"level": params["input"]["level"], "as": params["userId"]}}
serve(rpc={"__integration": act})
"""


def test_integrations_are_called_with_the_rights_of_a_run(
    shared_platform: Platform, model: ModelServer
) -> None:
    admin = shared_platform.admin
    level = {"type": "integer", "maximum": 100}
    dim = {"type": "object", "properties": {"level": level}, "required": ["level"]}
    actions = [
        {"id": "dim", "name": "Dim", "inputSchema": dim, "requiresConnection": False},
        {"id": "break", "name": "Break", "requiresConnection": False},
        {"id": "off", "name": "Off", "requiresConnection": False},
        {"id": "scene", "name": "Scene"},
    ]
    login = {"type": "credentials", "schema": {"type": "object", "required": ["key"]}}
    shared_platform.install("lamp", LAMP, type="integration", actions=actions, userAuth=login)
    prepare(shared_platform, model, "lighting")
    role = next(r for r in admin.get("/roles").json() if r["name"] == "app:lighting:agent")
    keys = [*role["permissions"], "integration:lamp:dim", "integration:lamp:break"]
    admin.patch("/roles/app:lighting:agent", json={"permissions": keys})

    def lamp(action: str, **given: Any) -> Call:
        body = {"integration_id": "lamp", "action": action, "input": given}
        return Call("call_integration", body)

    model.call(Call("list_integrations"), lamp("dim", level=7), lamp("dim", level=700))
    model.call(lamp("break"), lamp("off"), lamp("explode"))
    model.say("ok")
    events = ask(shared_platform, "lighting", "x")
    done = [e.data for e in events if e.kind == "tool_call_completed"]
    listed = [(i["id"], [a["id"] for a in i["actions"]]) for i in done[0]["output"]]
    assert listed == [("lamp", ["dim", "break"])]
    me = admin.get("/auth/me").json()["id"]
    assert done[1]["output"] == {"ok": True, "data": {"level": 7, "as": me}}
    assert done[2]["error"].startswith("input: $.level: ")
    assert done[3]["output"]["error"]["code"] == "NOT_FOUND"
    assert done[4]["error"] == "missing permission: integration:lamp:off"
    assert done[5]["error"] == "missing permission: integration:lamp:explode"
    body = {"integration_id": "lamp", "action": "dim", "input": {"level": 8}}
    path = "/tools/call_integration/execute"
    answer = admin.post(path, json={"appId": "lighting", "args": body})
    assert (answer.status_code, answer.json()["data"]["level"]) == (200, 8)
    missing = {**body, "action": "explode"}
    answer = admin.post(path, json={"appId": "lighting", "args": missing})
    assert (answer.status_code, answer.json()) == (404, {"error": "action 'explode' not found"})

    # A guest has no login of their own; the administrator lends theirs to the agent.
    guest = shared_platform.stack.sign_up("guest@example.com")
    guest_id = guest.get("/auth/me").json()["id"]
    keys += ["integration:lamp:scene"]
    admin.patch("/roles/app:lighting:agent", json={"permissions": keys})
    wanted = {"name": "guests", "permissions": ["app:lighting:invoke", "integration:lamp:scene"]}
    admin.post("/roles", json=wanted)
    admin.post("/roles/assign", json={"userId": guest_id, "role": "guests"})
    login = {"credentials": {"key": "k-of-admin"}}
    assert admin.post("/integrations/lamp/auth/credentials", json=login).status_code == 200

    def scene() -> dict[str, Any]:
        model.call(lamp("scene"))
        model.say("ok")
        events = Stream(shared_platform, "lighting", "x", guest).finish()
        return next(e.data for e in events if e.kind == "tool_call_completed")

    assert scene()["error"] == "not connected to 'lamp'"
    lent = admin.post("/integrations/lamp/auth/delegate", json={"agent_app_id": "lighting"})
    assert lent.json() == {"message": "delegated"}
    assert scene()["output"] == {"ok": True, "data": ["k-of-admin", guest_id]}
    alone = guest.post("/integrations/lamp/actions/scene", json={})
    assert alone.json() == {"error": "not connected to 'lamp'"}
    admin.delete("/apps/lamp")


OWN_LOOP = """
from trellis_worker import serve
def agent(invoke, ctx):
    yield "Hello "
    if invoke["message"] == "crash":
        import os
        os._exit(7)
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
OWN_LOOP_JS = """
serve({ agent: async function* (invoke, ctx) {
  yield 'Hello ';
  if (invoke.message === 'crash') process.exit(7);
  try {
    await ctx.callTool('query_data', { entity: 'secrets' });
  } catch (error) {
    yield `[${error.message}] `;
  }
  const row = await ctx.callTool('mutate_data',
    { entity: 'notes', action: 'create', data: { body: 'own' } });
  yield `${row.body} ${ctx.agentConfig.tool_descriptors.length}`;
  if (invoke.message === 'fail') throw new Error('no luck');
} });
"""


@pytest.mark.parametrize(
    ("app_id", "entry", "code"),
    [("own", "worker.py", OWN_LOOP), ("ownjs", "index.js", OWN_LOOP_JS)],
)
def test_a_worker_with_its_own_loop(
    shared_platform: Platform, model: ModelServer, app_id: str, entry: str, code: str
) -> None:
    supervision = {
        "mode": "supervised",
        "policies": [{"action": "mutate", "requires": "approval"}],
    }
    files = {entry: code, "agent.json": definition(supervision=supervision)}
    prepare(shared_platform, model, app_id, **files)
    stream = Stream(shared_platform, app_id, "go")
    asked = stream.wait_for("approval_required")

    def waits():
        run = shared_platform.admin.get(f"/apps/{app_id}/agent/sessions").json()[0]
        return run["status"] == "waiting_approval"

    # A loop of its own is shown as waiting after its question is.
    wait_until(waits, what="the session to wait")
    path = f"/apps/{app_id}/agent/approvals/{asked['approval_id']}"
    assert shared_platform.admin.post(path, json={"action": "approve"}).status_code == 200
    events = stream.finish()
    assert events[-1].kind == "done", events
    response = events[-1].data["response"]
    assert response.startswith(f"Hello [missing permission: app:{app_id}:secrets.read] own ")
    assert response == "".join(e.data["delta"] for e in events if e.kind == "chunk")
    assert model.requests == []
    stream = Stream(shared_platform, app_id, "fail")
    asked = stream.wait_for("approval_required")
    path = f"/apps/{app_id}/agent/approvals/{asked['approval_id']}"
    shared_platform.admin.post(path, json={"action": "reject", "reason": "no"})
    assert stream.finish()[-1].data["error"] == "agent handler failed: rejected: no"
    crashed = ask(shared_platform, app_id, "crash")
    assert [event.kind for event in crashed] == ["chunk", "error"]
    assert crashed[-1].data["error"] == "worker crashed"


def test_mcp_servers_run_on_nodes(shared_platform: Platform) -> None:
    admin = shared_platform.admin
    transport = {"type": "stdio", "command": sys.executable, "args": ["-c", PRETENDERS["rude"]]}
    body = {"name": "rude", "transport": transport, "autoStart": True}
    started = admin.post("/mcp-servers", json=body, timeout=90)
    assert started.status_code == 200, started.text
    assert started.json()["status"] == "running"
    assert started.json()["tools"][:2] == ["rude_dies", "rude_far"]
    assert admin.post("/apps", json={"appId": "mcpuser", "name": "x"}).status_code == 200

    def execute(name: str) -> tuple[int, Any]:
        body = {"appId": "mcpuser", "args": {"a": 1}}
        answer = admin.post(f"/tools/{name}/execute", json=body)
        return answer.status_code, answer.json()

    assert execute("rude_far") == (200, '{"a": 1}')
    assert execute("rude_dies") == (500, {"error": "Connection closed"})
    broken = {**transport, "command": "no-such-program-here"}
    answer = admin.post("/mcp-servers", json={**body, "transport": broken})
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("start failed: ")
    assert admin.get("/mcp-servers/rude").json()["status"] == "error"
    assert execute("rude_far") == (404, {"error": "unknown tool: 'rude_far'"})
    assert admin.delete("/mcp-servers/rude").status_code == 200


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


def test_runs_and_streams_outlive_everything_but_postgres(
    start_platform: StartPlatform, model: ModelServer
) -> None:
    """One stack with one web process and short heartbeats; each part leaves one worker behind."""
    platform = start_platform("web", "beat", WEB_CONCURRENCY="1", AGENT_HEARTBEAT="0.5")
    start_worker(platform, "one")
    supervision = {"mode": "supervised", "policies": [{"action": "mutate", "requires": "approval"}]}
    prepare(platform, model, "desk")
    prepare(platform, model, "careful", **{"agent.json": definition(supervision=supervision)})
    five_hundred_streams(platform, model)
    another_worker_takes_over(platform, model, signal.SIGTERM, "one", "two")
    another_worker_takes_over(platform, model, signal.SIGKILL, "two", "three")
    an_approval_survives_restarts_of_everything(platform, model, "three", "four")


def start_worker(platform: Platform, name: str) -> None:
    platform.stack.start(name, "worker")
    wait_until(lambda: " ready." in platform.stack.log(name), timeout=60, what=f"node {name}")


def notes(platform: Platform, app_id: str) -> int:
    return len(platform.admin.get(f"/apps/{app_id}/collections/notes").json())


def another_worker_takes_over(
    platform: Platform, model: ModelServer, how: signal.Signals, name: str, successor: str
) -> None:
    before, asked = notes(platform, "desk"), len(model.requests)
    hold = threading.Event()
    model.call(WRITE, text=["One."])
    model.answers.append(Answer(text=["never heard"], hold=hold))
    stream = Stream(platform, "desk", "go")
    wait_until(lambda: len(model.requests) == asked + 2, timeout=30, what="the second call")
    start_worker(platform, successor)
    model.say("Two.")
    # The model stays silent: an orderly stop does not wait for it.
    platform.stack.kill(name, how)
    events = stream.finish(90)
    hold.set()
    assert events[-1].kind == "done", events
    assert events[-1].data["response"] == "One.\n\nTwo."
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert notes(platform, "desk") == before + 1


def an_approval_survives_restarts_of_everything(
    platform: Platform, model: ModelServer, name: str, successor: str
) -> None:
    model.call(WRITE, text=["Writing."])
    stream = Stream(platform, "careful", "go")
    asked = stream.wait_for("approval_required")
    sessions = "/apps/careful/agent/sessions"
    wait_until(
        lambda: platform.admin.get(sessions).json()[0]["status"] == "waiting_approval",
        what="the run to park",
    )
    for process in ("web", "beat", name):
        platform.stack.kill(process)
    platform.redis.stop()
    platform.redis.start(empty=True)
    platform.stack.start("web")
    platform.stack.start("beat")
    platform.stack.wait_ready()
    start_worker(platform, successor)
    model.say("Written.")
    path = f"/apps/careful/agent/approvals/{asked['approval_id']}"
    assert platform.admin.post(path, json={"action": "approve"}).status_code == 200
    assert platform.admin.post(path, json={"action": "approve"}).status_code == 409
    run = stream.headers["X-Run-Id"]
    answer = platform.admin.get(f"/apps/careful/agent/runs/{run}/stream", timeout=60)
    events = parse_stream(answer.text)
    assert [event.kind for event in events if event.kind != "chunk"] == [
        "tool_call_started",
        "approval_required",
        "tool_call_completed",
        "done",
    ]
    assert events[-1].data["response"] == "Writing.\n\nWritten."
    assert notes(platform, "careful") == 1


def five_hundred_streams(platform: Platform, model: ModelServer) -> None:
    hold = threading.Event()
    model.answers.append(Answer(text=["now"], hold=hold))
    first = Stream(platform, "desk", "go")
    path = f"/api/v1/apps/desk/agent/runs/{first.headers['X-Run-Id']}/stream"

    async def follow(client: httpx.AsyncClient, gate: asyncio.Semaphore, ready: list[int]) -> str:
        async with gate:
            response = await client.send(client.build_request("GET", path), stream=True)
            assert response.status_code == 200
            ready.append(1)
        try:
            return "".join([line async for line in response.aiter_lines()])
        finally:
            await response.aclose()

    async def everybody() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": platform.admin.headers["Authorization"]}
        async with httpx.AsyncClient(
            base_url=platform.stack.url, headers=headers, timeout=90, limits=limits
        ) as client:
            gate, ready = asyncio.Semaphore(25), list[int]()
            streams = [asyncio.create_task(follow(client, gate, ready)) for _ in range(500)]
            while len(ready) < len(streams):
                await asyncio.sleep(0.05)
                assert not any(stream.done() for stream in streams)
            assert (await client.get("/health")).status_code == 200
            hold.set()
            return await asyncio.gather(*streams)

    bodies = asyncio.run(everybody())
    assert first.finish()[-1].kind == "done"
    assert all("event: chunk" in body and "event: done" in body for body in bodies)
