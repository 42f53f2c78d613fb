"""Calls of one process by token and by id."""

from concurrent.futures import Future

from workers_runtime.opencalls import OpenCall, OpenCalls
from workers_runtime.protocol import CallKind


def call(token, kind=CallKind.JOB, key="42"):
    return OpenCall(token, kind, key, Future())


def test_a_job_may_be_delivered_again_while_it_hangs():
    calls = OpenCalls()
    first, second = call("t1"), call("t2")
    assert calls.add(first)
    assert calls.add(second)
    assert calls.find(CallKind.JOB, "42", "t1") is first
    assert calls.find(CallKind.JOB, "42") is second, "an answer without a token is the latest's"
    assert calls.find(CallKind.JOB, "42", "t3") is None
    calls.remove("t2")
    assert calls.find(CallKind.JOB, 42) is first
    calls.remove("t1")
    assert calls.find(CallKind.JOB, "42") is None
    assert calls.remove("t1") is None


def test_ids_of_other_calls_and_all_tokens_are_unique():
    calls = OpenCalls()
    assert calls.add(call("t1", CallKind.RPC))
    assert not calls.add(call("t2", CallKind.RPC))
    assert not calls.add(call("t1"))
    assert calls.add(call("t3"))
    assert calls.count == 2
