"""Operations of app processes: whose call they are for, and what the process gets back."""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import Any

from tests.integration.workers_runtime.conftest import Rig
from workers_runtime.client import Reply
from workers_runtime.node_protocol import Operation
from workers_runtime.protocol import CallKind, FailureKind

RAW = """
import json, sys
PROTOCOL = %s
def say(m): print(json.dumps(m), flush=True)
waiting = {}
for line in sys.stdin:
    m = json.loads(line)
    kind = m["type"]
    if kind == "discover":
        say({"type": "discover", **({"protocol": PROTOCOL} if PROTOCOL else {})})
    elif kind == "rpc":
        token = {"own": m["call"], "none": None}.get(m["method"], m["method"])
        waiting["q" + m["id"]] = m["id"]
        op = {"type": "sql_query", "id": "q" + m["id"], "sql": "SELECT 1", "params": [],
              "user_id": "forged"}
        if token is not None:
            op["call"] = token
        if m["method"] != "hold":
            say(op)
    elif kind == "sql_query_result":
        say({"type": "rpc_response", "id": waiting[m["id"]], "result": m.get("error") or m["rows"]})
    elif kind == "shutdown":
        break
"""


def rows(op: Operation, reply: Reply) -> None:
    reply({"columns": ["one"], "rows": [[1]], "row_count": 1})


def test_operation_names_its_call(rig: Rig) -> None:
    rig.answers = rows
    rig.start(RAW % 2)
    call = secrets.token_hex(16)
    future = rig.client.call(
        "crm",
        kind=CallKind.RPC,
        call=call,
        message={"method": "own", "params": None, "caller": None},
        deadline=time.time() + 10,
    )
    assert future.result(10) == [[1]]
    (op,) = rig.operations
    assert (op.call, op.kind, op.app_id) == (call, CallKind.RPC, "crm")
    assert op.message["sql"] == "SELECT 1"


def test_forged_ended_and_missing_calls_get_an_error(rig: Rig) -> None:
    rig.answers = rows
    rig.start(RAW % 2)
    over = secrets.token_hex(16)
    rig.client.call(
        "crm", kind=CallKind.RPC, call=over, message={"method": "own"}, deadline=time.time() + 10
    ).result(10)
    for token in (over, "0" * 32, "", "none"):
        assert rig.rpc(token) == "call is over"
    assert len(rig.operations) == 1


def test_another_users_open_call_is_accepted_only_by_its_own_token(rig: Rig) -> None:
    """A process may name any call it has open: that call's rights are used, nobody else's."""
    rig.answers = rows
    rig.start(RAW % 2)
    held = secrets.token_hex(16)
    rig.client.call(
        "crm", kind=CallKind.RPC, call=held, message={"method": "hold"}, deadline=time.time() + 20
    )
    assert rig.rpc(held) == [[1]]
    assert rig.operations[-1].call == held


def test_protocol_1_operation_without_call(rig: Rig) -> None:
    rig.answers = rows
    rig.start(RAW % "None")
    assert rig.rpc("none") == [[1]]
    assert len(rig.operations[0].call) == 32
    # Its start call ended when the first call came, so its rights are gone.
    assert len(rig.ended_calls) == 1
    rig.send("hold")
    time.sleep(0.2)
    assert rig.rpc("none") == "call is over"


def test_answer_after_the_end_of_the_call_is_dropped(make_rig) -> None:
    rig = make_rig(RPC_TIMEOUT="1")
    held: list[Reply] = []
    rig.answers = lambda op, reply: held.append(reply)
    rig.start(RAW % 2)
    assert rig.failure("own", timeout_s=0.5).kind is FailureKind.TIMEOUT
    held[0]({"rows": [["late"]]})
    rig.answers = rows
    assert rig.rpc("own") == [[1]]


SDK = """
import asyncio
from trellis_worker import serve, CallOver, HostError
kept = []
def over(params, caller, ctx):
    if kept:
        try:
            kept[0].sql("SELECT 1")
        except CallOver as exc:
            return ["CallOver", str(exc)]
    kept.append(ctx)
    return "kept"
def everything(params, caller, ctx):
    with ctx.transaction() as tx:
        tx.sql("UPDATE x SET a = $1", [1])
    try:
        with ctx.transaction() as tx:
            raise KeyError("x")
    except KeyError:
        pass
    c = ctx.db.collection("contacts")
    c.insert({"a": 1}); c.update({"id": "1"}); c.delete("1")
    c.find({"a": None}, limit=5, order_by=[("a", "desc")]); c.find_one({"a": 1})
    return [ctx.sql("SELECT 1").scalar(), ctx.enqueue({"t": 1}, delay=60),
            ctx.action("go", {"x": 1}), ctx.call_integration("i", "send", as_user="u")]
async def aeverything(params, caller, ctx):
    async with ctx.transaction() as tx:
        await tx.sql("UPDATE x SET a = $1", [1])
    c = ctx.collection("contacts")
    await c.insert({"a": 1})
    one, two = await asyncio.gather(ctx.sql("SELECT 1"), ctx.sql("SELECT 2"))
    return [one.dicts(), two.one(), await ctx.enqueue({"t": 1})]
def refused(params, caller, ctx):
    try:
        ctx.sql("DROP TABLE x")
    except HostError as exc:
        return str(exc)
def who(params, caller, ctx):
    return [caller.user_id, caller["userId"], caller.auth_token, caller.effective_perms,
            dict(ctx.secrets), ctx.caller is caller]
def on_job(payload, caller, ctx):
    ctx.job.extend(60)
    return [ctx.job.id, ctx.job.read_ct, ctx.job.source, ctx.job.cron_id]
def on_start(ctx):
    ctx.collection("contacts").insert({"seed": True})
serve(rpc=dict(over=over, everything=everything, aeverything=aeverything, refused=refused,
               who=who), on_job=on_job, on_start=on_start)
"""


def scripted(op: Operation, reply: Reply) -> None:
    message = op.message
    if message.get("sql", "").startswith("DROP"):
        reply({"error": "statement not allowed: DROP"})
        return
    answers: dict[str, dict[str, Any]] = {
        "sql_query": {"columns": ["n"], "rows": [[1]], "row_count": 1},
        "sql_exec": {"columns": [], "rows": [], "row_count": 3},
        "sql_begin": {"tx_id": "t1"},
        "sql_commit": {},
        "sql_rollback": {},
        "job_enqueue": {"msg_id": 42},
        "job_extend": {"ok": True},
        "self_action": {"result": {"done": message.get("action")}},
        "collection_op": {"result": {"id": "1"}},
    }
    reply(answers[message["type"]])


def test_sdk_operations(rig: Rig) -> None:
    rig.answers = scripted
    rig.start(SDK)
    end = time.monotonic() + 5
    while not rig.ended_calls and time.monotonic() < end:
        time.sleep(0.01)
    assert [op.kind for op in rig.operations] == [CallKind.START]
    assert rig.rpc("everything") == [
        1,
        42,
        {"done": "triggerAction"},
        {"done": "call_integration"},
    ]
    sent = [
        {k: v for k, v in op.message.items() if k not in {"call", "id"}} for op in rig.operations
    ]
    assert {"type": "sql_exec", "tx_id": "t1", "sql": "UPDATE x SET a = $1", "params": [1]} in sent
    assert {"type": "sql_rollback", "tx_id": "t1"} in sent
    assert {"type": "job_enqueue", "payload": {"t": 1}, "delay": 60} in sent
    assert {
        "type": "collection_op",
        "op": "find",
        "entity": "contacts",
        "data": {"a": None},
        "options": {"limit": 5, "order_by": [["a", "desc"]]},
    } in sent
    assert rig.rpc("aeverything") == [[{"n": 1}], {"n": 1}, 42]
    assert rig.rpc("refused") == "statement not allowed: DROP"


def test_kept_ctx_is_dead(rig: Rig) -> None:
    rig.answers = scripted
    rig.start(SDK)
    assert rig.rpc("over") == "kept"
    before = len(rig.operations)
    assert rig.rpc("over") == ["CallOver", "call is over"]
    assert len(rig.operations) == before


def test_caller_and_secrets(rig: Rig) -> None:
    rig.start(SDK, credentials={"SMTP": "x", "1NUM": "y"})
    caller = {"userId": "u-1", "email": "a@b", "authToken": "t"}
    result = rig.rpc("who", None, caller=caller)
    assert result == ["u-1", "u-1", "t", None, {"SMTP": "x", "1NUM": "y"}, True]


def test_job(rig: Rig) -> None:
    rig.answers = scripted
    rig.start(SDK)
    message = {
        "id": "42",
        "payload": {"task": "digest"},
        "caller": None,
        "meta": {"read_ct": 2, "enqueued_at": "2025-03-01T08:00:00Z", "source": "api"},
    }
    future = rig.client.call("crm", kind=CallKind.JOB, call=secrets.token_hex(16), message=message)
    assert future.result(10) == ["42", 2, "api", None]
    extend = [op.message for op in rig.operations if op.message["type"] == "job_extend"]
    assert [(m["job_id"], m["seconds"]) for m in extend] == [("42", 60)]


AGENT = """
from trellis_worker import serve, ToolError
def agent(invoke, ctx):
    yield "Hello "
    try:
        ctx.call_tool("nope")
    except ToolError as exc:
        yield f"({exc}) "
    yield str(ctx.call_tool("add", {"a": 1})) + " " + invoke.message
serve(agent=agent)
"""


def test_agent(rig: Rig) -> None:
    chunks: list[str] = []

    def answer(op: Operation, reply: Reply) -> None:
        message = op.message
        if message["type"] == "agent_chunk":
            chunks.append(message["delta"])
        elif message["tool_name"] == "add":
            reply({"result": 3})
        else:
            reply({"error": "denied"})

    rig.answers = answer
    spec = rig.start(AGENT)
    assert rig.client.ensure(spec).result(5).capabilities == ["agent"]
    future = rig.client.call(
        "crm",
        kind=CallKind.AGENT,
        call=secrets.token_hex(16),
        message={"invoke_id": "r1", "session_id": "s", "message": "hi", "history": []},
    )
    assert future.result(10) == {"response": "Hello (denied) 3 hi", "tokens": None}
    assert chunks == ["Hello ", "(denied) ", "3 hi"]


CANCELLED = """
import time
from trellis_worker import CallOver, serve
ended = []
def agent(invoke, ctx):
    yield "on"
    time.sleep(0.3)
    try:
        ctx.call_tool("add")
    except CallOver as exc:
        ended.append(str(exc))
serve(agent=agent, rpc={"ended": lambda: ended})
"""


def test_an_agent_whose_run_is_over_is_told_at_its_next_tool_call(rig: Rig) -> None:
    started = threading.Event()
    rig.answers = lambda _op, _reply: started.set()
    rig.start(CANCELLED)
    message = {"invoke_id": "r1", "session_id": "s", "message": "hi", "history": []}
    future = rig.client.call("crm", kind=CallKind.AGENT, call="a" * 32, message=message)
    assert started.wait(10)
    rig.client.end_call("a" * 32, "run was cancelled")
    assert future.exception(10).message == "run was cancelled"
    deadline = time.monotonic() + 10
    while rig.rpc("ended") != ["call is over"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_log_levels(rig: Rig) -> None:
    rig.start(
        """
import logging, os, sys, subprocess
from trellis_worker import serve
def talk(params, caller, ctx):
    ctx.log.debug("a %s", "debug"); ctx.log.warn("a warn"); ctx.log.error("an error")
    print("printed"); print("to stderr", file=sys.stderr)
    logging.getLogger("lib").warning("from logging"); logging.info("more %d", 1)
    ctx.emit("stored", {"id": 7}); ctx.emit("bare")
    os.write(1, b'{"type":"rpc_response","id":"x","result":1}\\n')
    subprocess.run(["echo", "child"])
    ctx.log.info("x" * 9000)
serve(rpc={"talk": talk})
"""
    )
    rig.rpc("talk")
    for level, text in (
        ("debug", "a debug"),
        ("warn", "a warn"),
        ("error", "an error"),
        ("info", "printed"),
        ("stderr", "to stderr"),
        ("warn", "from logging"),
        ("info", "more 1"),
        ("event", 'stored: {"id":7}'),
        ("event", "bare: {}"),
        ("stderr", "rpc_response"),
        ("stderr", "child"),
    ):
        rig.wait_log(text, level)
    assert len(rig.wait_log("xxx", "info").message) == 8192
    assert rig.rpc("talk") is None


def test_raw_output_of_a_plain_script(rig: Rig) -> None:
    rig.start(
        """
import sys, json
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "discover":
        print(json.dumps({"type": "discover"}))
    elif m["type"] == "rpc":
        print("not json"); print('{"type": "unknown"}'); print("[1]"); print("")
        print(json.dumps({"type": "log", "message": "hi", "level": "odd"}))
        print(json.dumps({"type": "rpc_response", "id": m["id"]}) + "\\r")
    else:
        break
"""
    )
    assert rig.rpc("x") is None
    rig.wait_log("not json", "stdout")
    rig.wait_log('{"type": "unknown"}', "stdout")
    rig.wait_log("[1]", "stdout")
    rig.wait_log("hi", "info")


def test_discover_message(rig: Rig) -> None:
    rig.start(
        """
import sys, json
first = json.loads(sys.stdin.readline())
print(json.dumps({"type": "discover", "protocol": 2}))
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "rpc":
        print(json.dumps({"type": "rpc_response", "id": m["id"], "result": [first, m]}))
    else:
        break
""",
        manifest={"name": "CRM"},
        credentials={"K": "v"},
    )
    first, rpc = rig.rpc("m", {"a": 1})
    call = first.pop("call")
    assert len(call) == 32
    assert json.loads(json.dumps(first)) == {
        "type": "discover",
        "app_id": "crm",
        "runtime_url": "http://127.0.0.1:9100",
        "run_onstart": True,
        "deployment_id": first["deployment_id"],
        "credentials": {"K": "v"},
        "manifest": {"name": "CRM"},
        "limits": {
            "rpc_timeout_ms": 30000,
            "call_timeout_ms": 30000,
            "max_line_bytes": 8388608,
        },
    }
    assert set(rpc) == {"type", "call", "id", "method", "params", "caller"}
