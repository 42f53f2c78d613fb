"""Agent handlers of both author SDKs (contract part 40, 1.9; part 30, 4.2, 4.3, 5 and 6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sdk_host import Host, Message, Starter

PYTHON = """
from trellis_worker import CallOver, ToolError, serve

async def agent(invoke, ctx):
    text = invoke["message"]
    if text == "parts":
        for part in ("grün ", 7, ""):
            yield part
    elif text == "tool":
        yield "Looking. "
        found = await ctx.call_tool("query_data", {"entity": "notes"})
        yield f"{found['total']} for {invoke['invoker_user_id']} in {invoke['session_id']}"
        await ctx.call_tool("list_apps")
    elif text == "denied":
        try:
            await ctx.call_tool("nope", {})
        except ToolError as exc:
            yield f"{type(exc).__name__}: {exc}"
    elif text == "over":
        try:
            await ctx.call_tool("nope", {})
        except CallOver as exc:
            yield f"{type(exc).__name__}: {exc}"
    elif text == "done":
        yield "a"
        ctx.agent_done("a and more", 42)
    elif text == "history":
        yield " ".join(f"{m['role']}={m['content']}" for m in invoke["history"])
    elif text == "big":
        ctx.agent_done("x" * 9_000_000)
    else:
        yield "so far"
        raise ValueError("no luck")

serve(agent=agent)
"""
JS = """
serve({ agent: async function* (invoke, ctx) {
  const text = invoke.message;
  if (text === 'parts') {
    for (const part of ['grün ', 7, '']) yield part;
  } else if (text === 'tool') {
    yield 'Looking. ';
    const found = await ctx.callTool('query_data', { entity: 'notes' });
    yield `${found.total} for ${invoke.invoker_user_id} in ${invoke.session_id}`;
    await ctx.callTool('list_apps');
  } else if (text === 'denied' || text === 'over') {
    try {
      await ctx.callTool('nope', {});
    } catch (error) {
      yield `${error.name}: ${error.message}`;
    }
  } else if (text === 'done') {
    yield 'a';
    ctx.agentDone('a and more', 42);
  } else if (text === 'history') {
    yield invoke.history.map((m) => `${m.role}=${m.content}`).join(' ');
  } else if (text === 'big') {
    ctx.agentDone('x'.repeat(9000000));
  } else {
    yield 'so far';
    throw new Error('no luck');
  }
} });
"""


@pytest.fixture
def agent(start: Starter) -> Host:
    """An app with its own agent loop, after its handshake; answers may take 0.2 s."""
    host = start((PYTHON, JS))
    answer = host.discover(run_onstart=False, limits={"call_timeout_ms": 200})
    assert (answer["methods"], answer["capabilities"]) == ([], ["agent"])
    host.expect("started")
    return host


def invoke(host: Host, text: str, key: str = "r1", **fields: Any) -> None:
    message: Message = {"type": "agent_invoke", "call": f"t-{key}", "invoke_id": key}
    message |= {"session_id": "s1", "message": text, "history": [], "invoker_user_id": "u1"}
    host.send({**message, **fields})


def chunks(host: Host, count: int, key: str = "r1") -> list[str]:
    return [host.expect("agent_chunk", invoke_id=key)["delta"] for _ in range(count)]


def answer(host: Host, call: Message, **fields: Any) -> None:
    ids = {"invoke_id": call["invoke_id"], "call_id": call["call_id"]}
    host.send({"type": "agent_tool_result", **ids, **fields})


def test_chunks_and_the_whole_text(agent: Host) -> None:
    invoke(agent, "parts")
    assert chunks(agent, 3) == ["grün ", "7", ""]
    done = agent.expect("agent_done", invoke_id="r1")
    assert (done["response"], done["tokens"]) == ("grün 7", None)


def test_tools_take_as_long_as_they_take(agent: Host) -> None:
    invoke(agent, "tool")
    call = agent.expect("agent_tool_call", invoke_id="r1", tool_name="query_data")
    assert call["args"] == {"entity": "notes"}
    # Longer than any other operation may: a person may have to decide.
    agent.silent("agent_done", 0.4)
    answer(agent, call, result={"total": 2})
    second = agent.expect("agent_tool_call", tool_name="list_apps")
    assert second["args"] == {}
    assert second["call_id"] != call["call_id"]
    answer(agent, second, result=[])
    assert agent.expect("agent_done")["response"] == "Looking. 2 for u1 in s1"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("denied", "missing permission: tool:nope", "ToolError: missing permission: tool:nope"),
        ("over", "call is over", "CallOver: call is over"),
    ],
)
def test_a_refused_tool(agent: Host, text: str, error: str, said: str) -> None:
    invoke(agent, text)
    answer(agent, agent.expect("agent_tool_call"), error=error)
    assert agent.expect("agent_done")["response"] == said


def test_final_text_and_tokens_of_its_own(agent: Host) -> None:
    invoke(agent, "done")
    done = agent.expect("agent_done")
    assert (done["response"], done["tokens"]) == ("a and more", 42)


def test_failures_are_told_and_the_next_run_works(agent: Host) -> None:
    invoke(agent, "fail")
    assert agent.expect("agent_error", invoke_id="r1")["error"] == "no luck"
    agent.log_line("no luck", "error")
    invoke(agent, "big", "r2")
    assert agent.expect("agent_error", invoke_id="r2")["error"] == "result too large"
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    invoke(agent, "history", "r3", history=history)
    assert agent.expect("agent_done", invoke_id="r3")["response"] == "user=a assistant=b"


def test_runs_go_on_side_by_side(agent: Host) -> None:
    for key in ("r1", "r2"):
        invoke(agent, "tool", key)
    calls = [agent.expect("agent_tool_call", tool_name="query_data") for _ in range(2)]
    for number, call in enumerate(reversed(calls)):
        answer(agent, call, result={"total": number})
    for call in calls:
        last = agent.expect("agent_tool_call", invoke_id=call["invoke_id"], tool_name="list_apps")
        answer(agent, last, result=[])
    said = {m["invoke_id"]: m["response"] for m in [agent.expect("agent_done") for _ in calls]}
    assert said == {"r2": "Looking. 0 for u1 in s1", "r1": "Looking. 1 for u1 in s1"}


@pytest.mark.parametrize(
    "sources",
    [
        (
            "from trellis_worker import serve\n"
            "def agent(invoke):\n    return 'said ' + invoke['message']\n"
            "serve(agent=agent)\n",
            "serve({ agent: (invoke) => 'said ' + invoke.message });",
        ),
        (
            "from trellis_worker import serve\n"
            "async def agent(invoke, ctx):\n    return 'said ' + invoke['message']\n"
            "serve(rpc={}, agent=agent)\n",
            "serve({ rpc: {}, agent: async (invoke) => 'said ' + invoke.message });",
        ),
        (
            "from trellis_worker import serve\n"
            "def agent(invoke, ctx):\n    yield 'part'\n    return 'said ' + invoke['message']\n"
            "serve(agent=agent)\n",
            "serve({}, { *agent(invoke) { yield 'part'; return 'said ' + invoke.message; } });",
        ),
    ],
)
def test_forms(start: Starter, sources: tuple[str, str]) -> None:
    host = start(sources)
    assert host.discover()["capabilities"] == ["agent"]
    host.expect("started")
    invoke(host, "hi")
    assert host.expect("agent_done")["response"] == "said hi"


def test_without_an_agent(start: Starter) -> None:
    host = start(
        (
            "from trellis_worker import serve\nserve(rpc={'agent': lambda p: p})\n",
            # The old flat form may have a method of that name.
            "serve({ agent: (p) => p, ping: () => 'pong' });",
        )
    )
    assert host.discover().get("capabilities", []) == []
    host.expect("started")
    assert host.rpc("agent", 5) == 5
    invoke(host, "hi")
    assert host.expect("agent_error")["error"] == "this worker has no agent handler"
