"""An RPC never hangs: 503 within 2 s (no live worker: 1 s), and calls work again by themselves."""

import time

import pytest

from tests.support.stack import wait_until

ECHO = """
from trellis_worker import serve
serve(rpc={"echo": lambda params: params})
"""


def timed(call):
    started = time.monotonic()
    answer = call()
    return answer, time.monotonic() - started


def test_no_worker_is_503_within_a_second(start_platform):
    platform = start_platform("web", "worker")
    platform.install("shop", ECHO)
    platform.stack.kill("worker")
    wait_until(
        lambda: platform.rpc("shop", "echo").status_code == 503,
        timeout=5,
        what="the node's end to be noticed",
    )
    answer, seconds = timed(lambda: platform.rpc("shop", "echo", 1))
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "worker for app 'shop' is not ready"},
    )
    assert seconds < 1
    platform.stack.start("worker2", "worker")
    wait_until(
        lambda: platform.rpc("shop", "echo", 1).status_code == 200, timeout=20, what="recovery"
    )


def test_a_call_in_flight_on_a_killed_worker_ends_within_two_seconds(start_platform):
    platform = start_platform("web", "worker")
    platform.install(
        "shop", ECHO.replace("lambda params: params", "lambda params: __import__('time').sleep(20)")
    )
    import threading

    answers = []
    call = threading.Thread(
        target=lambda: answers.append(timed(lambda: platform.rpc("shop", "echo")))
    )
    call.start()
    time.sleep(1)
    platform.stack.kill("worker")
    killed = time.monotonic()
    call.join(10)
    assert answers[0][0].status_code in {500, 503}
    assert time.monotonic() - killed < 4


def test_no_redis_is_503_within_two_seconds(start_platform):
    platform = start_platform("web", "worker")
    platform.install("shop", ECHO)
    assert platform.rpc("shop", "echo", 1).json() == 1
    platform.redis.kill()
    for _ in range(3):
        answer, seconds = timed(lambda: platform.rpc("shop", "echo", 1))
        assert (answer.status_code, answer.json()) == (503, {"error": "service not ready"})
        assert seconds < 2
    platform.redis.start(empty=True)
    wait_until(
        lambda: platform.rpc("shop", "echo", 1).status_code == 200, timeout=20, what="recovery"
    )


def test_a_dead_runtime_is_replaced(start_platform):
    platform = start_platform("web", "worker")
    platform.install("shop", ECHO)
    worker = platform.stack.processes["worker"]
    runtime = next(p for p in worker.children() if "workers_runtime" in " ".join(p.cmdline()))
    runtime.kill()
    answer, seconds = timed(lambda: platform.rpc("shop", "echo", 1))
    assert answer.status_code in {200, 500, 503}
    assert seconds < 5
    wait_until(
        lambda: platform.rpc("shop", "echo", 1).status_code == 200, timeout=20, what="recovery"
    )


@pytest.mark.parametrize("name", ["DATABASE", "REDIS", "BROKER", "JWT", "MASTER_KEY"])
def test_app_code_sees_no_address_and_no_key(shared_platform, name):
    shared_platform.install(
        "peek",
        "import os\nfrom trellis_worker import serve\nserve(rpc={'env': lambda: dict(os.environ)})",
    )
    environment = shared_platform.rpc("peek", "env").json()
    assert environment["TRELLIS_APP_ID"] == "peek"
    assert not [key for key in environment if name in key.upper()]
    assert shared_platform.stack.env["DATABASE_URL"] not in environment.values()
