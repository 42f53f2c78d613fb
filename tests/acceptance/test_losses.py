"""Whatever dies in the middle of work, nothing that was accepted is lost.

Source: "What must not happen" of the product's first issue; contract part 30, sections 1 and 9.3.
"""

import signal
import threading

import psutil
import psycopg2
import pytest

from tests.acceptance.test_agents import Stream, ask, prepare
from tests.acceptance.test_channels import open_channel
from tests.fakes.model_server import Answer, model_server
from tests.fakes.telegram import running_telegram
from tests.support.stack import wait_until

SLOW = """
import os, time
from trellis_worker import serve

def on_job(payload, caller, ctx):
    time.sleep(payload.get("seconds", 0))

serve(rpc={"ping": lambda: "pong", "pid": os.getpid}, on_job=on_job)
"""
FAST_REDELIVERY = {"JOB_VISIBILITY_TIMEOUT": "4"}


def runtime_of(platform):
    """Return the runtime process of the one node."""
    worker = platform.stack.processes["worker"]
    return next(
        p for p in worker.children(recursive=True) if "workers_runtime" in " ".join(p.cmdline())
    )


def app_process_of(platform):
    """Return the app process of the one app."""
    return psutil.Process(platform.rpc("shop", "pid").json())


def busy(platform, app_id, count):
    """Enqueue jobs of which some are certainly running, and return all ids."""
    ids = {platform.enqueue(app_id, {"seconds": 0.5}) for _ in range(count)}

    def running():
        return any(job["read_ct"] for job in platform.admin.get(f"/apps/{app_id}/jobs").json())

    wait_until(running, what="a running job")
    return ids


@pytest.mark.parametrize("loss", ["flush", "kill"])
def test_losing_redis_loses_no_job_cron_record_or_chat(start_platform, loss):
    with running_telegram() as telegram:
        env = {**FAST_REDELIVERY, "TELEGRAM_API_BASE": telegram.url}
        platform = start_platform("web", "worker", "beat", **env)
        lose_redis(platform, telegram, loss)


def lose_redis(platform, telegram, loss):
    platform.install(
        "shop",
        SLOW,
        dataContract=[{"entityName": "orders", "fields": [{"name": "total", "type": "number"}]}],
    )
    record = platform.admin.post("/apps/shop/collections/orders", json={"total": 5}).json()
    cron = platform.admin.post(
        "/apps/shop/crons", json={"name": "beat", "schedule": "1 seconds"}
    ).json()
    ids = busy(platform, "shop", 30)
    webhook = open_channel(platform, "assistant")

    def write(sender):
        update = telegram.message("hello", sender=sender)
        answer = platform.admin.post(webhook, json=update, headers=telegram.headers)
        assert answer.status_code == 200, answer.text

    write(1)
    if loss == "flush":
        import redis

        redis.Redis.from_url(platform.redis.url).flushall()
    else:
        platform.redis.kill()
        ids |= {platform.enqueue("shop", {"while": "redis is down"})}
        write(2)
        platform.redis.start(empty=True)
    platform.wait_archived("shop", ids, timeout=60)
    assert platform.admin.get(f"/apps/shop/collections/orders/{record['id']}").json() == record

    def ticks():
        runs = platform.admin.get(f"/apps/shop/crons/{cron['id']}/runs").json()
        return sum(run["status"] != "failed" for run in runs)

    senders = [1] if loss == "flush" else [1, 2]
    wait_until(lambda: all(telegram.texts(s) for s in senders), timeout=60, what="answers in chats")
    before = ticks()
    wait_until(lambda: ticks() > before, what="the cron to tick on")
    wait_until(
        lambda: platform.rpc("shop", "ping").status_code == 200, timeout=20, what="RPC to recover"
    )


@pytest.mark.parametrize("victim", ["worker", "runtime", "app process"])
def test_a_kill_in_the_middle_of_jobs_loses_none(start_platform, victim):
    platform = start_platform("web", "worker", "beat", **FAST_REDELIVERY)
    platform.install("shop", SLOW)
    ids = busy(platform, "shop", 20)
    if victim == "worker":
        platform.stack.kill("worker")
        platform.stack.start("worker2", "worker")
    elif victim == "runtime":
        runtime_of(platform).kill()
    else:
        app_process_of(platform).kill()
    platform.wait_archived("shop", ids, timeout=60)
    assert platform.admin.get("/apps/shop/jobs").json() == []
    with (
        psycopg2.connect(platform.database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT count(*) FROM trellis.jobs_dead")
        assert cursor.fetchone() == (0,)


def test_a_killed_worker_leaves_no_process_behind(start_platform):
    platform = start_platform("web", "worker")
    platform.install("shop", SLOW)
    family = platform.stack.processes["worker"].children(recursive=True)
    assert len(family) >= 2
    platform.stack.kill("worker", signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_an_orderly_stop_makes_jobs_visible_at_once(start_platform):
    platform = start_platform("web", "worker", "beat", JOB_VISIBILITY_TIMEOUT="120")
    platform.install("shop", SLOW)
    ids = {platform.enqueue("shop", {"seconds": 30}) for _ in range(2)}
    wait_until(
        lambda: all(job["read_ct"] for job in platform.admin.get("/apps/shop/jobs").json()),
        what="running jobs",
    )
    assert platform.admin.post("/apps/shop/worker/stop").status_code == 200
    platform.deploy("shop", SLOW.replace("time.sleep(", "print("))
    platform.wait_archived("shop", ids, timeout=20)


def test_losing_redis_under_a_running_task_costs_no_node(start_platform):
    platform = start_platform("web", "worker")
    with model_server() as model:
        prepare(platform, model, "desk")
        hold = threading.Event()
        model.answers.append(Answer(text=["done"], hold=hold))
        Stream(platform, "desk", "go")
        wait_until(lambda: model.requests, what="the run")
        platform.redis.kill()
        # However long it takes, the next attempt is a second away.
        third = "Trying again in 1.00 second... (3/None)"
        wait_until(lambda: third in platform.stack.log("worker"), what="the third attempt")
        platform.redis.start(empty=True)
        hold.set()
        wait_until(lambda: "agent_run_completed" in platform.stack.log("worker"), what="its end")
        model.say("still here")
        # Both the heartbeat and the consumer have to be back.
        wait_until(lambda: platform.stack.log("worker").count("Connected to") == 2, what="Celery")
        assert ask(platform, "desk", "and now?")[-1].kind == "done"
        assert platform.stack.runs("worker")
