"""Two nodes, and what happens when one of them, its runtime or an app process dies.

Source: contract part 30, sections 3.2, 3.3 and 7; ADR 0003.
"""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import pytest

from tests.support.stack import wait_until

WORKER = """
import os, time
from trellis_worker import serve

def sleep(params):
    time.sleep(params)
    return "slept"

serve(rpc={"echo": lambda params: params, "pid": os.getpid, "sleep": sleep,
           "secrets": lambda params, caller, ctx: dict(ctx.secrets)})
"""


def runtime_of(platform, name):
    worker = platform.stack.processes[name]
    return next(p for p in worker.children() if "workers_runtime" in " ".join(p.cmdline()))


def status(platform, app):
    return platform.admin.get(f"/apps/{app}/worker/status").json()


@pytest.fixture
def two_nodes(start_platform):
    platform = start_platform("web", "worker")
    platform.stack.start("worker2", "worker")
    wait_until(lambda: " ready." in platform.stack.log("worker2"), timeout=60, what="the node")
    platform.install("shop", WORKER)
    return platform


@contextmanager
def load(platform, clients=4, pause_s=0.0):
    """Call ``echo`` all the time; yield the list of (status, text, seconds, started)."""
    ended = threading.Event()
    answers = []
    token = platform.admin.headers["Authorization"][7:]

    def call():
        with platform.stack.client(token) as client:
            while not ended.is_set():
                started = time.monotonic()
                body = {"method": "echo", "params": 1}
                answer = client.post("/apps/shop/rpc", json=body)
                seconds = time.monotonic() - started
                answers.append((answer.status_code, answer.text.strip(), seconds, started))
                time.sleep(pause_s)

    threads = [threading.Thread(target=call) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join(40)


def both_serve(platform):
    """Wait until both nodes have a process of the app; return the process ids."""

    def pids():
        found.add(platform.rpc("shop", "pid").json())
        return len(found) >= 2

    found = set()
    wait_until(pids, timeout=20, what="both nodes to serve")
    return found


def test_a_killed_node_costs_its_calls_only(two_nodes):
    both_serve(two_nodes)
    with load(two_nodes) as answers:
        time.sleep(1)
        two_nodes.stack.kill("worker", signal.SIGKILL)
        killed = time.monotonic()
        time.sleep(5)
    codes = Counter(code for code, *_ in answers)
    assert set(codes) <= {200, 500, 503}
    assert codes[500] + codes[503] <= 8, codes
    assert max(seconds for *_, seconds, _ in answers) < 5
    late = [code for code, _, _, started in answers if started > killed + 3]
    assert late
    assert set(late) == {200}


def test_a_home_moves_when_its_node_dies(two_nodes):
    before = status(two_nodes, "shop")
    assert before["status"] == "running"
    both_serve(two_nodes)
    two_nodes.stack.kill("worker", signal.SIGKILL)
    two_nodes.stack.kill("worker2", signal.SIGKILL)
    killed = datetime.now(UTC).isoformat()
    two_nodes.stack.start("worker3", "worker")

    def moved():
        now = status(two_nodes, "shop")
        return now["status"] == "running" and now["started_at"] > killed

    # Nothing calls the app: the new home starts it by itself.
    wait_until(moved, timeout=35, what="a new home")


def test_an_orderly_stop_of_a_node_hands_over_at_once(two_nodes):
    both_serve(two_nodes)
    with load(two_nodes) as answers:
        time.sleep(0.5)
        two_nodes.stack.kill("worker", signal.SIGTERM)
        time.sleep(1)
    assert max(seconds for *_, seconds, _ in answers) < 5
    assert answers[-1][0] == 200
    assert Counter(code for code, *_ in answers)[500] == 0


def test_a_killed_runtime_fails_calls_and_comes_back(two_nodes):
    both_serve(two_nodes)
    with load(two_nodes) as answers:
        time.sleep(0.5)
        runtime_of(two_nodes, "worker").kill()
        killed = time.monotonic()
        time.sleep(6)
    codes = Counter(code for code, *_ in answers)
    assert set(codes) <= {200, 500, 503}
    assert max(seconds for *_, seconds, _ in answers) < 6
    late = {code for code, _, _, started in answers if started > killed + 4}
    assert late == {200}
    both_serve(two_nodes)


def test_a_killed_app_process_fails_its_calls_and_comes_back(two_nodes):
    pid = two_nodes.rpc("shop", "pid").json()
    with load(two_nodes) as answers:
        time.sleep(0.5)
        psutil.Process(pid).kill()
        time.sleep(2)
    failed = {(code, text) for code, text, *_ in answers if code != 200}
    assert failed <= {(500, '{"error":"worker crashed"}')}
    assert max(seconds for *_, seconds, _ in answers) < 5


def test_no_process_outlives_a_killed_node(two_nodes):
    both_serve(two_nodes)
    worker = two_nodes.stack.processes["worker"]
    children = worker.children(recursive=True)
    assert children
    two_nodes.stack.kill("worker", signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


def test_stop_ends_the_processes_of_every_node(two_nodes):
    pids = both_serve(two_nodes)
    assert all(psutil.pid_exists(pid) for pid in pids)
    answer = two_nodes.admin.post("/apps/shop/worker/stop")
    assert answer.status_code == 200, answer.text
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    for _ in range(4):
        answer = two_nodes.rpc("shop", "echo", 1)
        text = "worker for app 'shop' is not running"
        assert (answer.status_code, answer.json()) == (503, {"error": text})


def test_every_node_serves_the_new_code_after_a_deploy(two_nodes):
    both_serve(two_nodes)
    with load(two_nodes) as answers:
        changed = WORKER.replace("lambda params: params", 'lambda params: "new"')
        assert two_nodes.deploy("shop", changed).status_code == 200
        deployed = time.monotonic()
        time.sleep(2)
    assert {code for code, *_ in answers} == {200}
    late = {text for _, text, _, started in answers if started > deployed + 1}
    assert late == {'"new"'}


def test_a_platform_secret_restarts_every_node(two_nodes):
    both_serve(two_nodes)
    secret = {"key": "TOKEN", "value": "v1"}
    answer = two_nodes.admin.post("/platform/secrets", json=secret)
    assert answer.json()["workers_restarted"] == 1
    wait_until(
        lambda: all(two_nodes.rpc("shop", "secrets").json() == {"TOKEN": "v1"} for _ in range(6)),
        timeout=20,
        what="both nodes to have the secret",
    )


def test_a_worker_whose_runtime_cannot_start_still_stops(start_platform):
    platform = start_platform("web")
    platform.stack.start("worker", WORKER_UID_BASE="none")
    wait_until(lambda: "WORKER_UID_BASE" in platform.stack.log("worker"), timeout=60, what="it")
    began = time.monotonic()
    platform.stack.kill("worker", signal.SIGTERM)
    assert time.monotonic() - began < 20
    assert "Traceback" not in platform.stack.log("worker")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rolling_restarts_cost_no_more_than_the_calls_of_killed_nodes(two_nodes):
    """A node joins, the oldest leaves: every second one in order, the others are killed.

    TRELLIS_TEST_RESTARTS=20 makes it as long as releases should have it.
    """
    rounds = int(os.environ.get("TRELLIS_TEST_RESTARTS", "2"))
    stack, names, killed = two_nodes.stack, ["worker", "worker2"], []
    # Paced, so that starting a worker does not take longer than anybody would wait.
    with load(two_nodes, pause_s=0.02) as answers:
        for number in range(rounds):
            names.append(f"worker-{number}")
            stack.start(names[-1], "worker")
            wait_until(lambda: " ready." in stack.log(names[-1]), timeout=60, what="the node")
            in_order = number % 2 == 0
            if not in_order:
                killed.append(time.monotonic())
            stack.kill(names.pop(0), signal.SIGTERM if in_order else signal.SIGKILL)
        time.sleep(6)
        calm = time.monotonic() - 2
    failed = [(text, began) for code, text, _, began in answers if code != 200]
    # Four clients have at most one call each on a node when it dies; messages it had taken but
    # not begun fail when its sign of life expires, and so may those that come until then.
    blamed = [
        at for _, began in failed for at in killed if began - 0.01 < at + 2.5 and at < began + 5
    ]
    assert len(blamed) >= len(failed), failed
    assert len(failed) <= 8 * len(killed), failed
    assert len(answers) > 50 * rounds
    assert {code for code, _, _, began in answers if began > calm} == {200}
