"""Calls that the node sends in one piece."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.integration.workers_runtime.conftest import Rig
from tests.support.stack import wait_until
from workers_runtime.protocol import FailureKind, WorkerFailure

ECHO = "from trellis_worker import serve\nserve(rpc={'echo': lambda params: params})\n"
NOTE = """
from trellis_worker import serve
noted = []
serve(rpc={"note": noted.append, "noted": lambda: noted})
"""


def test_calls_inside_leave_at_the_end(rig: Rig) -> None:
    rig.start(ECHO)
    with rig.client.together():
        held = [rig.send("echo", number) for number in range(3)]
        # It is written after them, so its answer would come after theirs.
        answered: list[int] = []
        other = threading.Thread(target=lambda: answered.append(rig.rpc("echo", 7)))
        other.start()
        other.join(10)
        assert answered == [7]
        assert not any(future.done() for future in held)
    assert [future.result(10) for future in held] == [0, 1, 2]


def test_what_is_raised_inside_holds_no_call_back(rig: Rig) -> None:
    rig.start(ECHO)
    with pytest.raises(ZeroDivisionError), rig.client.together():
        held = rig.send("echo", 1)
        raise ZeroDivisionError
    assert held.result(10) == 1
    assert rig.rpc("echo", 2) == 2


def test_a_runtime_that_dies_inside_fails_the_calls(rig: Rig) -> None:
    """They have failed with it, and its successor must not get them."""
    spec = rig.start(NOTE)
    first, pid = rig.client.epoch, rig.client.pid
    assert pid is not None
    with rig.client.together():
        held = rig.send("note", 1)
        os.kill(pid, signal.SIGKILL)
        error = held.exception(10)
        assert isinstance(error, WorkerFailure)
        assert error.kind is FailureKind.CRASHED
        wait_until(lambda: rig.client.epoch > first and rig.client.connected)
        again = threading.Thread(target=lambda: rig.client.ensure(spec).result(30))
        again.start()
        again.join(30)
    assert rig.rpc("noted") == []
