"""Real app processes that behave badly, and what the caller and the log get to see."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from tests.integration.workers_runtime.conftest import Rig, gone
from workers_runtime.protocol import FailureKind, WorkerFailure

ECHO = """
import os, time
from trellis_worker import serve
def echo(params): return params
def pid(): return os.getpid()
def sleep(params): time.sleep(params); return "woke"
def die(params): os._exit(params)
serve(rpc={"echo": echo, "pid": pid, "sleep": sleep, "die": die})
"""


def test_ping_pong(rig: Rig) -> None:
    rig.start(ECHO)
    for value in (1, None, [1, "ä"], "x", {"a": {"b": []}}, 1.5, True):
        assert rig.rpc("echo", value) == value
    rig.wait_log("worker started", "system")


def test_unknown_method(rig: Rig) -> None:
    rig.start(ECHO)
    error = rig.failure("nothing")
    assert (error.kind, error.message) == (FailureKind.UNKNOWN_METHOD, "unknown method: nothing")


def test_crash_fails_open_calls_and_restarts_at_once(rig: Rig) -> None:
    rig.start(ECHO)
    first = rig.rpc("pid")
    waiting = rig.send("sleep", 20)
    error = rig.failure("die", 3)
    assert (error.kind, error.message) == (FailureKind.CRASHED, "worker crashed")
    assert waiting.exception(5).kind is FailureKind.CRASHED
    assert rig.rpc("pid") != first
    rig.wait_log("worker crashed (exit 3)", "system")
    rig.wait_log("restarting worker (attempt 1)", "system")
    rig.wait_log("worker restarted", "system")
    state = rig.state()
    assert (state.restarts, state.last_error) == (1, "exit code 3")


def test_exit_code_0_is_a_crash(rig: Rig) -> None:
    rig.start(ECHO)
    assert rig.failure("die", 0).kind is FailureKind.CRASHED
    rig.wait_log("worker crashed (exit 0)", "system")
    assert rig.rpc("echo", 1) == 1


def test_crash_loop_gives_up_and_start_recovers(make_rig) -> None:
    rig = make_rig(WORKER_MAX_CRASHES="2")
    spec = rig.start(ECHO)
    for _ in range(2):
        rig.failure("die", 1)
    rig.wait_state("crashed")
    rig.wait_log("crash loop: 2 crashes in 60 s, giving up", "system")
    error = rig.failure("echo", 1)
    assert error.kind is FailureKind.NOT_RUNNING
    assert error.message == "worker for app 'crm' is not running"
    rig.client.ensure(spec, clear=True).result(20)
    assert rig.rpc("echo", 1) == 1


def test_hang_times_out_and_the_worker_stays(make_rig) -> None:
    rig = make_rig(RPC_TIMEOUT="1")
    rig.start(ECHO)
    pid = rig.rpc("pid")
    error = rig.failure("sleep", 3, timeout_s=1)
    assert (error.kind, error.message) == (
        FailureKind.TIMEOUT,
        "rpc timeout: no answer within 1 s",
    )
    assert rig.rpc("pid") == pid
    assert rig.state().in_flight == 0


def test_flood_of_output_is_bounded_and_harmless(rig: Rig) -> None:
    rig.start(
        """
import os
from trellis_worker import serve
def flood():
    for n in range(200_000):
        print("noise", n)
    return "done"
serve(rpc={"flood": flood, "ping": lambda: "pong"})
"""
    )
    assert rig.rpc("flood") == "done"
    assert rig.rpc("ping") == "pong"
    assert len(rig.logs) <= 200_100


def test_log_lines_over_the_bound_are_counted(make_rig) -> None:
    """A node that does not read for a while loses lines, not the process."""
    rig = make_rig()
    rig.start(
        """
from trellis_worker import serve
def burst():
    for n in range(60_000):
        print("x" * 2000)
    return "done"
serve(rpc={"burst": burst})
"""
    )
    plain = rig.client._handlers.on_logs
    slow = []

    def slowly(entries):
        if len(slow) < 20:
            time.sleep(0.1)
        slow.append(len(entries))
        plain(entries)

    object.__setattr__(rig.client._handlers, "on_logs", slowly)
    assert rig.rpc("burst") == "done"
    dropped = rig.wait_log("log entries dropped", "system")
    assert int(dropped.message.split()[0]) > 0


def test_ignoring_term_is_killed(rig: Rig) -> None:
    rig.start(
        """
import signal, time, os, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from trellis_worker import serve
def stuck(): time.sleep(60)
serve(rpc={"pid": os.getpid, "stuck": stuck}, on_shutdown=lambda: time.sleep(60))
"""
    )
    pid = rig.rpc("pid")
    waiting = rig.send("stuck")
    began = time.monotonic()
    rig.client.stop_app("crm").result(10)
    assert 2.5 < time.monotonic() - began < 5
    assert gone(pid)
    assert waiting.exception(1).kind is FailureKind.STOPPED
    assert waiting.exception(1).message == "worker stopped"


def test_answers_within_the_grace_are_delivered(make_rig) -> None:
    rig = make_rig(WORKER_STOP_GRACE="5")
    rig.start(ECHO)
    waiting = rig.send("sleep", 1)
    time.sleep(0.2)
    rig.client.stop_app("crm").result(10)
    assert waiting.result(1) == "woke"


def test_result_over_8_mib(rig: Rig) -> None:
    rig.start(
        """
from trellis_worker import serve
serve(rpc={"big": lambda n: "x" * n, "ping": lambda: "pong"})
"""
    )
    error = rig.failure("big", 9 * 1024 * 1024)
    assert (error.kind, error.message) == (FailureKind.TOO_LARGE, "result too large")
    assert len(rig.rpc("big", 8 * 1024 * 1024 - 200)) == 8 * 1024 * 1024 - 200
    assert rig.rpc("ping") == "pong"


def test_params_over_8_mib(rig: Rig) -> None:
    rig.start(ECHO)
    assert rig.failure("echo", "x" * 9 * 1024 * 1024).kind is FailureKind.TOO_LARGE
    assert rig.rpc("echo", 1) == 1


NO_READ = """
import sys, time, json
sys.stdin.fileno()
print(json.dumps({"type": "discover"}), flush=True)
time.sleep(60)
"""


def test_never_reading_stdin_is_unresponsive(rig: Rig) -> None:
    rig.start(NO_READ)
    calls = [rig.send("x", "y" * 50_000) for _ in range(4)]
    kinds = [call.exception(10).kind for call in calls[2:]]
    assert kinds == [FailureKind.UNRESPONSIVE, FailureKind.UNRESPONSIVE]
    assert calls[3].exception(1).message == "worker unresponsive"


def test_overlong_line_is_discarded(rig: Rig) -> None:
    rig.start(
        """
import sys, json
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "discover":
        print("z" * (9 * 1024 * 1024))
        print(json.dumps({"type": "discover"}))
    if m["type"] == "rpc":
        print(json.dumps({"type": "rpc_response", "id": m["id"], "result": 1}))
    if m["type"] == "shutdown":
        break
"""
    )
    assert rig.rpc("any") == 1
    rig.wait_log("a line over 8388608 bytes was discarded", "system")


def test_closed_stdout_is_a_crash(rig: Rig) -> None:
    rig.start(
        """
import sys, json, os, time
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "discover":
        print(json.dumps({"type": "discover"}))
    if m["type"] == "rpc":
        os.close(sys.stdout.fileno())
        os.close(1)
        time.sleep(60)
"""
    )
    assert rig.failure("close").kind is FailureKind.CRASHED
    assert rig.wait_state("running").last_error == "closed stdout"


def test_silence_is_protocol_1(make_rig) -> None:
    rig = make_rig(WORKER_HANDSHAKE_TIMEOUT="0.5")
    rig.start(
        """
import sys, json
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "rpc":
        print(json.dumps({"type": "rpc_response", "id": m["id"], "result": m["params"]}))
    if m["type"] == "shutdown":
        break
"""
    )
    assert rig.rpc("any", {"a": 1}) == {"a": 1}
    rig.wait_log("using protocol 1", "system")


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("raise ValueError('bad config')", 1, "ValueError: bad config"),
        ("def broken(:", 1, "SyntaxError"),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
    ],
)
def test_death_before_the_handshake(rig: Rig, source: str, code: int, text: str) -> None:
    spec = rig.spec(source)
    error = rig.client.ensure(spec, clear=True).exception(20)
    assert isinstance(error, WorkerFailure)
    assert error.kind is FailureKind.START_FAILED
    assert error.message.startswith(f"worker did not start: exit code {code}")
    assert text in error.message
    assert "trellis_worker" not in error.message
    state = rig.wait_state("stopped")
    assert state.last_error is not None


def test_failing_deploy_leaves_the_old_one(rig: Rig) -> None:
    rig.start(ECHO)
    pid = rig.rpc("pid")
    error = rig.client.ensure(rig.spec("raise SystemExit(4)"), clear=True).exception(20)
    assert error.kind is FailureKind.START_FAILED
    assert rig.rpc("pid") == pid
    assert rig.state().status == "running"


def test_new_deployment_takes_over_without_a_failed_call(rig: Rig) -> None:
    rig.start("from trellis_worker import serve\nserve(rpc={'v': lambda: 1})")
    calls = [rig.send("v") for _ in range(200)]
    spec = rig.spec("from trellis_worker import serve\nserve(rpc={'v': lambda: 2})")
    ensured = rig.client.ensure(spec, clear=True)
    while not ensured.done():
        calls.append(rig.send("v"))
        time.sleep(0.001)
    assert {call.result(5) for call in calls} <= {1, 2}
    assert rig.rpc("v") == 2
    end = time.monotonic() + 5
    while rig.state().processes > 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert rig.state().processes == 1


def test_draining_lets_rpcs_finish(rig: Rig) -> None:
    rig.start(ECHO)
    old = rig.rpc("pid")
    waiting = rig.send("sleep", 2)
    time.sleep(0.1)
    rig.start(ECHO + "\n# two")
    assert rig.rpc("pid") != old
    assert waiting.result(5) == "woke"
    assert gone(old)


def test_staged_process_serves_only_after_promotion(rig: Rig) -> None:
    rig.start("from trellis_worker import serve\nserve(rpc={'v': lambda: 1})")
    spec = rig.spec("from trellis_worker import serve\nserve(rpc={'v': lambda: 2})")
    staged = rig.client.ensure(spec, staged=True).result(20)
    assert rig.rpc("v") == 1
    promoted = rig.client.ensure(spec).result(20)
    assert promoted.pid == staged.pid
    assert rig.rpc("v") == 2


def test_discarded_stage_ends(rig: Rig) -> None:
    rig.start("from trellis_worker import serve\nserve(rpc={'v': lambda: 1})")
    spec = rig.spec("from trellis_worker import serve\nserve(rpc={'v': lambda: 2})")
    staged = rig.client.ensure(spec, staged=True).result(20)
    rig.client.discard("crm").result(5)
    assert gone(staged.pid)
    assert rig.rpc("v") == 1


def test_ensure_is_idempotent(rig: Rig) -> None:
    spec = rig.start(ECHO)
    pids = {rig.client.ensure(spec, clear=clear).result(5).pid for clear in (False, True, False)}
    assert len(pids) == 1
    assert rig.fetched == [spec.deployment_id]


def test_stop_forgets_the_app(rig: Rig) -> None:
    rig.start(ECHO)
    pid = rig.rpc("pid")
    rig.client.stop_app("crm").result(5)
    assert gone(pid)
    assert rig.failure("pid").kind is FailureKind.UNKNOWN_APP
    rig.client.stop_app("crm").result(5)
    rig.wait_log("worker stopped", "system")


def test_older_generation_is_unknown(rig: Rig) -> None:
    spec = rig.start(ECHO)
    future = rig.client.call(
        "crm",
        kind="rpc",
        call="a" * 32,
        message={"method": "pid", "params": None},
        deadline=time.time() + 5,
        generation=spec.generation + 1,
    )
    assert future.exception(5).kind is FailureKind.UNKNOWN_APP


def test_ended_call_fails_with_the_nodes_text(rig: Rig) -> None:
    rig.start(ECHO)
    future = rig.client.call(
        "crm",
        kind="rpc",
        call="b" * 32,
        message={"method": "sleep", "params": 5},
        deadline=time.time() + 20,
    )
    time.sleep(0.2)
    rig.client.end_call("b" * 32, "account not available")
    error = future.exception(5)
    assert (error.kind, error.message) == (FailureKind.ENDED, "account not available")


def test_idle_process_is_stopped_and_comes_back(make_rig) -> None:
    rig = make_rig(WORKER_IDLE_TIMEOUT="0.4")
    rig.start(ECHO)
    pid = rig.rpc("pid")
    rig.wait_state("stopped")
    assert gone(pid)
    assert rig.rpc("pid") != pid


def test_home_process_is_not_idle(make_rig) -> None:
    rig = make_rig(WORKER_IDLE_TIMEOUT="0.2")
    rig.start(ECHO, home=True)
    pid = rig.rpc("pid")
    time.sleep(1)
    assert rig.rpc("pid") == pid


def test_capacity(make_rig) -> None:
    rig = make_rig(WORKER_PROCS_PER_NODE="2")
    rig.start(ECHO, "one", home=True)
    rig.start(ECHO, "two")
    rig.start(ECHO, "three")
    # The longest idle process that is nobody's home made room.
    assert rig.wait_state("stopped", "two")
    busy = rig.send("sleep", 2, app_id="three")
    error = rig.failure("pid", app_id="two", timeout_s=0.5)
    assert (error.kind, error.message) == (FailureKind.CAPACITY, "worker capacity exhausted")
    assert busy.result(5) == "woke"
    assert isinstance(rig.rpc("pid", app_id="two"), int)


def test_runtime_killed_leaves_no_orphan_and_comes_back(rig: Rig) -> None:
    rig.start(
        """
import subprocess, os
from trellis_worker import serve
def child(): return [os.getpid(), subprocess.Popen(["sleep", "60"]).pid]
serve(rpc={"child": child, "pid": os.getpid, "sleep": lambda n: __import__("time").sleep(n)})
"""
    )
    app = rig.rpc("pid")
    waiting = rig.send("sleep", 30)
    runtime = rig.client.pid
    assert runtime is not None
    epoch = rig.client.epoch
    psutil.Process(runtime).kill()
    assert waiting.exception(5).kind is FailureKind.CRASHED
    assert gone(runtime)
    assert gone(app)
    end = time.monotonic() + 10
    while rig.client.epoch == epoch and time.monotonic() < end:
        time.sleep(0.02)
    assert rig.failure("pid").kind is FailureKind.UNKNOWN_APP
    rig.start(ECHO)
    assert rig.rpc("echo", 5) == 5


def test_calls_fail_at_once_without_a_runtime(make_rig) -> None:
    rig = make_rig(start=False)
    assert rig.failure("x").kind is FailureKind.NOT_READY


def test_stopping_the_client_stops_everything(make_rig) -> None:
    rig = make_rig()
    rig.start(ECHO)
    pid, runtime = rig.rpc("pid"), rig.client.pid
    rig.client.stop()
    assert gone(pid)
    assert gone(runtime)
    assert rig.failure("pid").kind is FailureKind.NOT_READY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user of a process")
def test_apps_run_as_users_of_their_own(rig: Rig) -> None:
    source = "import os\nfrom trellis_worker import serve\nserve(rpc={'uid': os.getuid})"
    rig.start(source, "one")
    rig.start(source, "two")
    uids = {rig.rpc("uid", app_id=app) for app in ("one", "two")}
    assert len(uids) == 2
    assert 0 not in uids
