"""What an app nests too deeply is its own failure: nobody else has to read it."""

from __future__ import annotations

import json

import pytest

from tests.integration.workers_runtime.conftest import Rig
from workers_runtime.protocol import MAX_DEPTH, FailureKind

DEEP = """
import json
from trellis_worker import serve
def nested(depth): return json.loads("[" * depth + "]" * depth)
def enqueue(depth, caller, ctx):
    try: ctx.enqueue(nested(depth))
    except Exception as exc: return str(exc)
def emit(depth, caller, ctx): ctx.emit("deep", nested(depth))
serve(rpc={"nested": nested, "enqueue": enqueue, "emit": emit}, on_job=nested)
"""
# The last one is written by the app and cannot be read by the next process.
TOO_DEEP = (MAX_DEPTH, 600, 930)


@pytest.fixture
def deep(rig: Rig) -> Rig:
    rig.start(DEEP)
    return rig


def test_a_result_within_the_limit_arrives(deep: Rig) -> None:
    depth = MAX_DEPTH - 1
    assert deep.rpc("nested", depth) == json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize("depth", TOO_DEEP)
def test_a_result_is_an_error_of_its_call_alone(deep: Rig, depth: int) -> None:
    runtime, other = deep.client.epoch, deep.send("nested", 1)
    error = deep.failure("nested", depth)
    assert (error.kind, error.message) == (FailureKind.HANDLER, "result is nested too deeply")
    assert other.result(10) == []
    assert deep.rpc("nested", 2) == [[]]
    assert deep.client.epoch == runtime


def test_an_operation_is_refused(deep: Rig) -> None:
    assert deep.rpc("enqueue", MAX_DEPTH) == "job_enqueue is nested too deeply"
    assert deep.operations == []


def test_an_event_is_left_out_and_the_log_says_so(deep: Rig) -> None:
    deep.rpc("emit", MAX_DEPTH)
    deep.wait_log("a message of type event is nested too deeply", "system")
