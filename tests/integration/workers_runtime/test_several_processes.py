"""An app that may have several processes on a node."""

from __future__ import annotations

import time

from tests.integration.workers_runtime.conftest import Rig, gone
from tests.integration.workers_runtime.test_processes import ECHO


def both(rig: Rig) -> set[int]:
    """Keep one process busy until calls reach a second one; return their ids."""
    end = time.monotonic() + 30
    found: set[int] = {rig.rpc("pid")}
    while len(found) < 2:
        assert time.monotonic() < end, found
        busy = rig.send("sleep", 0.3)
        found.add(rig.rpc("pid"))
        busy.result(30)
    return found


def test_a_busy_process_gets_help_and_both_end_together(make_rig) -> None:
    rig = make_rig(WORKER_PROCS_PER_APP="2", WORKER_IDLE_TIMEOUT="600")
    rig.start(ECHO)
    one = rig.rpc("pid")
    assert {rig.rpc("pid") for _ in range(5)} == {one}
    pids = both(rig)
    assert one in pids
    assert rig.state().processes == 2
    # Never a third, and the less busy one is chosen.
    calls = [rig.send("sleep", 0.5) for _ in range(4)]
    assert rig.rpc("pid") in pids
    assert [call.result(30) for call in calls] == ["woke"] * 4
    # One crashes: the other answers while it is restarted.
    busy = rig.send("sleep", 2)
    crashed = rig.failure("die", 1)
    assert crashed.message == "worker crashed"
    assert rig.rpc("echo", 1) == 1
    assert busy.exception(30) is None
    old = both(rig)
    rig.start(ECHO.replace("return params", "return 'new'"))
    assert rig.rpc("echo", 1) == "new"
    assert all(gone(pid) for pid in old)
    new = both(rig)
    assert not new & old
    rig.client.stop_app("crm").result(20)
    assert all(gone(pid) for pid in new)


def test_help_that_is_not_needed_ends(make_rig) -> None:
    rig = make_rig(WORKER_PROCS_PER_APP="2", WORKER_IDLE_TIMEOUT="1")
    rig.start(ECHO, home=True)
    pids = both(rig)
    end = time.monotonic() + 20
    while rig.state().processes > 1:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert rig.rpc("pid") in pids
