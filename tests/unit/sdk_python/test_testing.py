"""The harness for authors: their app runs in the test, and the host is made of Python objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SDK = Path(__file__).parents[3] / "workers_runtime" / "sdk" / "python"
WORKER = """
import asyncio
import greeting
from trellis_worker import App, Reject, Retry

app = App()
kept = []

@app.on_start
def start(ctx):
    ctx.collection("settings").insert({"key": "a"})
    ctx.log.info("up for %s", ctx.app_id)

@app.rpc
def greet(params, caller, ctx):
    contact = ctx.collection("contacts").find_one({"id": params["id"]})
    msg_id = ctx.enqueue({"task": "welcome"}, delay=5)
    ctx.emit("greeted", {"by": caller.email})
    kept.append(ctx)
    return {"text": greeting.word() + " " + contact["name"], "job": msg_id}

@app.rpc
async def later(params, caller, ctx):
    await asyncio.sleep(0)
    rows = await ctx.collection("contacts").find({}, order_by=[["name", "desc"]], limit=2)
    async with ctx.transaction() as tx:
        changed = await tx.sql("UPDATE contacts SET seen = $1", [True])
    return [[row["name"] for row in rows], changed.row_count]

@app.rpc
def query(params, caller, ctx):
    return ctx.sql("SELECT 1", []).dicts()

@app.rpc
def use_kept():
    return kept[0].secrets

@app.rpc
def write(params, caller, ctx):
    op, data = params
    return getattr(ctx.collection("contacts"), op)(data)

@app.rpc
def upload(params, caller, ctx):
    return ctx.upload_file(b"a,b", "list.csv", "text/csv")

@app.rpc
def mail(params, caller, ctx):
    return ctx.call_integration("mail", "send", {"to": "bo"})

@app.rpc
def bad():
    return object()

@app.on_job
def job(payload, caller, ctx):
    if payload == "later":
        raise Retry(delay=60)
    if payload == "never":
        raise Reject("gone")
    if payload == "fail":
        raise ValueError("no such task")
    ctx.job.progress(0.5, "half")
    ctx.job.extend(30)
    return [ctx.job.read_ct, ctx.secrets["TOKEN"]]

@app.agent
def agent(invoke, ctx):
    yield "The answer is "
    yield str(ctx.call_tool("add", {"a": 1, "b": 2}))

@app.on_shutdown
def shutdown():
    print("bye")

app.serve()
"""
CONTRACT = [
    {"entityName": "contacts", "fields": [{"name": "name"}, {"name": "seen"}]},
    {"entityName": "settings", "fields": [{"name": "key"}]},
]


@pytest.fixture
def testing(monkeypatch):
    monkeypatch.syspath_prepend(str(SDK))
    from trellis_worker import testing

    return testing


@pytest.fixture
def app(testing, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "greeting.py").write_text("def word(): return 'Dear'")
    main, path = sys.modules["__main__"], sys.path[:]
    with testing.Harness(
        tmp_path / "worker.py",
        app_id="crm",
        secrets={"TOKEN": "t"},
        manifest={"dataContract": CONTRACT},
        on_sql=lambda statement, _: 3 if statement.startswith("UPDATE") else [{"n": 1}],
        on_action=lambda action, params: [action, params["integrationId"]],
        tools={"add": lambda a, b: a + b},
    ) as app:
        assert (sys.modules["__main__"], sys.path) == (main, path)
        yield app
    assert "greeting" not in sys.modules


def failure(testing, app, *args, **kwargs):
    with pytest.raises(testing.HandlerFailed) as caught:
        app.rpc(*args, **kwargs)
    return str(caught.value)


def test_calls_and_what_they_ask_of_the_host(testing, app):
    assert app.records["settings"][0]["key"] == "a"
    assert ("info", "up for crm") in app.logs
    app.records["contacts"] += [{"id": "c1", "name": "Ana"}, {"id": "c2", "name": "Bo"}]
    assert app.rpc("greet", {"id": "c1"}) == {"text": "Dear Ana", "job": 1}
    user = testing.CALLER["userId"]
    assert app.jobs == [{"msg_id": 1, "payload": {"task": "welcome"}, "delay": 5, "user": user}]
    assert app.events == [("greeted", {"by": "tester@example.com"})]
    assert app.rpc("later") == [["Bo", "Ana"], 3]
    assert [text for text, _ in app.statements] == [
        *("BEGIN", "UPDATE contacts SET seen = $1", "COMMIT"),
    ]
    assert app.rpc("query") == [{"n": 1}]
    assert app.rpc("mail") == ["call_integration", "mail"]
    assert app.files[app.rpc("upload")] == ("list.csv", "text/csv", b"a,b")


def test_failures_are_those_of_the_platform(testing, app):
    assert failure(testing, app, "nope") == "unknown method: nope"
    assert failure(testing, app, "bad") == "result is not JSON serialisable"
    app.records["contacts"].append({"id": "c1", "name": "Ana"})
    text = "enqueue requires an authenticated caller"
    assert failure(testing, app, "greet", {"id": "c1"}, caller=None) == text
    app.rpc("greet", {"id": "c1"})
    assert failure(testing, app, "use_kept") == "call is over"
    assert app.rpc("write", ["update", {"id": "c1", "name": "Bo"}])["name"] == "Bo"
    assert failure(testing, app, "write", ["insert", {"x": 1}]) == "unknown field 'x'"
    assert failure(testing, app, "write", ["update", {"id": "c9", "name": "x"}]) == (
        "record not found"
    )


def test_jobs_and_agents(testing, app):
    assert app.job({}, read_ct=2) == [2, "t"]
    assert (app.progress, app.extended) == ([(0.5, "half")], [30])
    for payload, order in (("later", {"retry": 60}), ("never", {"reject": "gone"})):
        with pytest.raises(testing.JobEnded) as ended:
            app.job(payload)
        assert ended.value.order == order
    with pytest.raises(testing.HandlerFailed, match="no such task"):
        app.job("fail")
    assert app.agent("1 + 2?") == "The answer is 3"
    assert app.chunks == ["The answer is ", "3"]


def test_other_sources_and_a_failing_start(testing):
    with testing.Harness({"rpc": {"echo": lambda params: params}}) as app:
        assert app.rpc("echo", [1, "ä"]) == [1, "ä"]

    def start(ctx):
        raise RuntimeError("no table")

    with pytest.raises(testing.HandlerFailed, match="no table"):
        testing.Harness({"on_start": start})


def test_it_needs_nothing_but_itself(tmp_path):
    (tmp_path / "worker.py").write_text("handlers = {'rpc': {'x': lambda: 1}}")
    code = (
        f"import sys; sys.path.insert(0, {str(SDK)!r})\n"
        "from trellis_worker.testing import Harness\n"
        "print(Harness('worker.py').rpc('x'))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
