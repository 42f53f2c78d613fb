# printing is what is tested
# The same app as main.mjs, for the conformance suite.
import asyncio
import dataclasses
import os
import sys
import time
from datetime import UTC, datetime

from trellis_worker import App, Reject, Retry, WorkerError

app = App()
state = {"started": 0, "kept": None}


@app.rpc
def echo(params):
    return params


@app.rpc
def nothing():
    pass


@app.rpc("noArguments")
def no_arguments():
    return "none"


@app.rpc("oneArgument")
def one_argument(params):
    return [params]


@app.rpc("twoArguments")
def two_arguments(params, caller):
    return [params, caller and caller.user_id]


@app.rpc("threeArguments")
async def three_arguments(params, caller, ctx):
    return [params, caller and caller["userId"], ctx.app_id]


@app.rpc
def whoami(params, caller):
    return [caller.user_id, caller.email, caller.auth_token] if caller else None


@app.rpc
def context(params, caller, ctx):
    assert dict(ctx.secrets) == dict(ctx.credentials)
    return {
        "app": ctx.app_id,
        "url": ctx.runtime_url,
        "secrets": dict(ctx.secrets),
        "manifest": ctx.manifest,
        "agent": ctx.agent_config,
        "job": ctx.job,
    }


@app.rpc
def fail(params):
    raise WorkerError(params) if params == "intended" else ValueError(params)


@app.rpc("failLater")
async def fail_later(params):
    await asyncio.sleep(0.001)
    raise ValueError(params)


@app.rpc("failEmpty")
def fail_empty():
    raise TypeError


@app.rpc("waitAsync")
async def wait_async(params):
    await asyncio.sleep(params)
    return params


@app.rpc("waitSync")
def wait_sync(params):
    time.sleep(params)
    return params


@app.rpc
def big(params):
    return "x" * params


@app.rpc
def cyclic():
    value = {}
    value["self"] = value
    return value


@dataclasses.dataclass
class Rich:
    when: datetime
    bytes: bytes
    set: set
    text: str


@app.rpc
def rich():
    return Rich(datetime(2025, 3, 1, 8, tzinfo=UTC), bytes([1, 2, 255]), {1}, "grün 🌿")


@app.rpc
def say(params):
    print(params)
    print("to stderr", file=sys.stderr)


@app.rpc("logAll")
def log_all(params, caller, ctx):
    for level in ("debug", "info", "warn", "error"):
        getattr(ctx.log, level)(f"at {level}")
    ctx.log.warning("number %d", 7)


@app.rpc("longLog")
def long_log(params, caller, ctx):
    ctx.log.info("y" * 20000)


@app.rpc
def stray():
    os.write(1, b"half a line")
    return "clean"


@app.rpc
def emit(params, caller, ctx):
    ctx.emit("order", {"id": 17})
    ctx.emit("bare")


@app.rpc
async def sql(params, caller, ctx):
    result = await ctx.sql(params["sql"], params["params"])
    return {"columns": result.columns, "rows": result.rows, "row_count": result.row_count}


@app.rpc("sqlError")
def sql_error(params, caller, ctx):
    try:
        ctx.sql("SELECT 1")
    except Exception as error:
        return [type(error).__name__, str(error)]


@app.rpc
def transaction(params, caller, ctx):
    with ctx.transaction() as tx:
        result = tx.sql("UPDATE t SET x = $1", [params])
        if params == "fail":
            raise ValueError("changed my mind")
    return result.row_count


@app.rpc
def collection(params, caller, ctx):
    contacts = ctx.collection("contacts")
    return [
        contacts.insert({"name": "Ana"}),
        contacts.update({"id": "c1", "name": "Bo"}),
        contacts.find({"active": True}, limit=5, offset=2, order_by=[["name", "desc"]]),
        contacts.find(),
        contacts.find_one({"id": "c1"}),
        contacts.delete("c1"),
    ]


@app.rpc
async def enqueue(params, caller, ctx):
    return [await ctx.enqueue({"task": "next"}), await ctx.enqueue([1], delay=60)]


@app.rpc
async def actions(params, caller, ctx):
    return [
        await ctx.action("sync", {"full": True}),
        await ctx.call_integration("mail", "send", {"to": "bo"}, "u2"),
        await ctx.self_action("syncConnectedUsers", {"actionName": "sync"}),
    ]


@app.rpc
def upload(params, caller, ctx):
    return ctx.upload_file("a,b\n", "list.csv", "text/csv")


@app.rpc
def keep(params, caller, ctx):
    state["kept"] = ctx


@app.rpc("useKept")
def use_kept():
    return state["kept"].sql("SELECT 1").rows


@app.rpc("tooLargeOperation")
def too_large_operation(params, caller, ctx):
    return ctx.sql("SELECT $1", ["x" * (9 << 20)]).rows


@app.rpc("startCount")
def start_count():
    return state["started"]


@app.on_start
def on_start(ctx):
    state["started"] += 1
    ctx.collection("settings").insert({"key": "a"})
    ctx.log.info("up")


@app.on_job
def on_job(payload, caller, ctx):
    if payload == "fail":
        raise ValueError("no such task")
    if payload == "extend":
        ctx.job.extend(300)
    if payload == "later":
        raise Retry(delay=90)
    if payload == "never":
        raise Reject("no such customer")
    if payload == "progress":
        ctx.job.progress(0.5, "half")
    job = ctx.job
    return {
        "payload": payload,
        "user": caller and caller.user_id,
        "job": [job.id, job.read_ct, job.enqueued_at, job.source],
    }


@app.on_shutdown
def on_shutdown():
    print("bye")


@app.on_error
def on_error(error, where):
    print(f"reported {where}: {error}")


app.serve()
