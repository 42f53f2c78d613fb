"""The Python author API as apps use it: every form of registration and handler."""

from __future__ import annotations

import time

import pytest

from tests.integration.workers_runtime.conftest import Rig
from workers_runtime.protocol import FailureKind

DECORATORS = """
from trellis_worker import App
app = App()
@app.rpc
def ping(): return "pong"
@app.rpc("otherName")
def other(params): return ["other", params]
@app.rpc
async def three(params, caller, ctx): return [params, caller, ctx.app_id]
app.serve(max_concurrency=2)
"""

GLOBALS = """
handlers = {"rpc": {"ping": lambda: "pong"}, "on_job": None}
"""

ARITIES = """
import functools
from trellis_worker import serve
class Thing:
    def method(self, params, caller): return ["method", params, caller]
    def __call__(self, params): return ["call", params]
def logged(f):
    @functools.wraps(f)
    def wrapper(*args): return ["wrapped", *f(*args)]
    return wrapper
@logged
def one(params): return [params]
def default(params, caller=None, ctx=None, extra=5): return [params, extra]
def many(*args): return len(args)
async def none(): return "async none"
serve(rpc=dict(method=Thing().method, thing=Thing(), one=one, default=default, many=many,
               none=none, partial=functools.partial(lambda a, b: [a, b], "x"), builtin=str))
"""

RESULTS = """
import datetime as dt, decimal, enum, uuid, dataclasses
from trellis_worker import serve
class Color(enum.Enum):
    RED = "red"
@dataclasses.dataclass
class Point:
    x: int
    at: dt.date
class Broken:
    def __json__(self): raise AttributeError("half made")
def good():
    return [dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC), dt.date(2025, 1, 2),
            uuid.UUID(int=1), decimal.Decimal("1.50"), Color.RED, Point(1, dt.date(2025, 1, 2)),
            {1}, (1, 2), b"abc"]
serve(rpc={"good": good, "bad": lambda: object(), "nan": lambda: float("nan"),
           "broken": lambda: Broken(), "nothing": lambda: None})
"""

ERRORS = """
import sys
from trellis_worker import serve, WorkerError
seen = []
def plain(): raise ValueError("bad value")
def empty(): raise KeyError
def intended(): raise WorkerError("not today")
def leave(): sys.exit(3)
async def later(): raise RuntimeError("async bad")
def on_error(exc, where): seen.append([type(exc).__name__, where])
serve(rpc=dict(plain=plain, empty=empty, intended=intended, leave=leave, later=later,
               seen=lambda: seen), on_error=on_error)
"""


def test_decorators(rig: Rig) -> None:
    spec = rig.start(DECORATORS)
    assert rig.client.ensure(spec).result(5).methods == ["ping", "otherName", "three"]
    assert rig.rpc("ping") == "pong"
    assert rig.rpc("otherName", 1) == ["other", 1]
    assert rig.rpc("three", {"a": 1}) == [{"a": 1}, None, "crm"]


def test_module_global(rig: Rig) -> None:
    rig.start(GLOBALS)
    assert rig.rpc("ping") == "pong"


def test_no_handlers_at_all(rig: Rig) -> None:
    spec = rig.start("x = 1")
    assert rig.client.ensure(spec).result(5).methods == []
    assert rig.failure("x").kind is FailureKind.UNKNOWN_METHOD


def test_second_serve(rig: Rig) -> None:
    error = rig.client.ensure(
        rig.spec("from trellis_worker import serve\nserve()\nserve()"), clear=True
    ).exception(20)
    assert "RuntimeError: serve() called twice" in str(error)


def test_arities(rig: Rig) -> None:
    rig.start(ARITIES)
    assert rig.rpc("method", 1) == ["method", 1, None]
    assert rig.rpc("thing", 1) == ["call", 1]
    assert rig.rpc("one", 1) == ["wrapped", 1]
    assert rig.rpc("many") == 3
    assert rig.rpc("none") == "async none"
    assert rig.rpc("partial", 2) == ["x", 2]


def test_results(rig: Rig) -> None:
    rig.start(RESULTS)
    assert rig.rpc("good") == [
        "2025-01-02T03:04:05Z",
        "2025-01-02",
        "00000000-0000-0000-0000-000000000001",
        "1.50",
        "red",
        {"x": 1, "at": "2025-01-02"},
        [1],
        [1, 2],
        "YWJj",
    ]
    assert rig.rpc("nothing") is None
    for method in ("bad", "nan", "broken"):
        assert rig.failure(method).message == "result is not JSON serialisable"


def test_errors(rig: Rig) -> None:
    rig.start(ERRORS)
    texts = {m: rig.failure(m).message for m in ("plain", "empty", "intended", "leave", "later")}
    assert texts == {
        "plain": "bad value",
        "empty": "KeyError",
        "intended": "not today",
        "leave": "3",
        "later": "async bad",
    }
    rig.wait_log("ValueError: bad value", "error")
    rig.wait_log("RuntimeError: async bad", "error")
    assert rig.rpc("seen")[0] == ["ValueError", "rpc plain"]
    assert not any("not today" in e.message for e in rig.logs)


def test_calls_run_at_the_same_time_and_excess_waits(rig: Rig) -> None:
    rig.start(
        """
import time, asyncio
from trellis_worker import serve
def slow(): time.sleep(0.4)
async def aslow(): await asyncio.sleep(0.4)
serve(rpc=dict(slow=slow, aslow=aslow), max_concurrency=2)
"""
    )
    rig.rpc("aslow")
    began = time.monotonic()
    for call in [rig.send("slow") for _ in range(4)]:
        call.result(5)
    assert 0.8 <= time.monotonic() - began < 2
    began = time.monotonic()
    for call in [rig.send("aslow") for _ in range(20)]:
        call.result(5)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("prefix", ["", "async "])
def test_on_start_comes_before_the_first_call(rig: Rig, prefix: str) -> None:
    rig.start(
        f"""
import time
from trellis_worker import serve
done = []
{prefix}def on_start(ctx):
    time.sleep(0.5)
    done.append(ctx.caller)
serve(rpc={{"done": lambda: done}}, on_start=on_start)
"""
    )
    assert rig.rpc("done") == [None]


def test_failing_on_start_leaves_the_worker_up(rig: Rig) -> None:
    rig.start(
        """
from trellis_worker import serve
def on_start(ctx): raise ValueError("no seed")
serve(rpc={"ping": lambda: "pong"}, on_start=on_start)
"""
    )
    assert rig.rpc("ping") == "pong"
    rig.wait_log("on_start failed: no seed", "error")


def test_on_shutdown_runs_within_the_grace(rig: Rig) -> None:
    rig.start(
        """
from trellis_worker import serve
def bye(): print("bye")
serve(on_shutdown=bye)
"""
    )
    rig.client.stop_app("crm").result(5)
    rig.wait_log("bye", "info")


def test_job_without_handler_is_acknowledged(rig: Rig) -> None:
    rig.start("from trellis_worker import serve\nserve()")
    future = rig.client.call("crm", kind="job", call="c" * 32, message={"id": "1", "payload": {}})
    assert future.result(5) is None
    rig.wait_log("job 1 ignored: no on_job handler", "warn")


def test_files_named_like_the_standard_library(rig: Rig) -> None:
    """They are the app's own affair, but must not break the SDK beneath it."""
    shadows = dict.fromkeys(("json.py", "threading.py", "queue.py", "logging.py"), "raise OSError")
    rig.start(
        {
            "worker.py": "import mine\nhandlers = {'rpc': {'x': lambda: mine.Y}}",
            "mine.py": "Y = 2",
            **shadows,
        }
    )
    assert rig.rpc("x") == 2


def test_entry_below_src(rig: Rig) -> None:
    rig.start(
        {
            "src/worker.py": "import near, os\nhandlers = {'rpc': {'x': lambda: [near.Y, os.listdir()]}}",
            "src/near.py": "Y = 2",
            "data.txt": "d",
        }
    )
    near, listing = rig.rpc("x")
    assert (near, sorted(listing)) == (2, ["data.txt", "src"])


def test_main_module(rig: Rig) -> None:
    rig.start(
        """
import sys, pickle
class Thing: pass
if __name__ == "__main__":
    handlers = {"rpc": {"x": lambda: [sys.argv[1:], type(pickle.loads(pickle.dumps(Thing()))).__name__]}}
"""
    )
    assert rig.rpc("x") == [[], "Thing"]
