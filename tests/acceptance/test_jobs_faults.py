"""Jobs and crons on real processes, and what happens to them when something dies.

Each job notes its run in the app's own table, so that lost and doubled work is counted.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections import Counter

import httpx
import psutil
import psycopg2
import pytest
import redis

from app.embedded.postgres import EmbeddedPostgres
from tests.support.stack import wait_until

WORKER = """
import time
from trellis_worker import serve

def note(ctx, tries=100):
    try:
        ctx.collection("runs").insert({"job": ctx.job.id, "attempt": ctx.job.read_ct})
    except Exception:
        if not tries:
            raise
        time.sleep(0.2)
        note(ctx, tries - 1)

def on_job(payload, caller, ctx):
    if payload.get("raise"):
        raise RuntimeError(payload["raise"])
    note(ctx)
    if payload.get("extend"):
        ctx.job.extend(payload["extend"])
    time.sleep(payload.get("seconds", 0))

serve(on_job=on_job)
"""
POISON = """
import os
from trellis_worker import serve
serve(on_job=lambda payload: os.kill(os.getpid(), 9))
"""
ENTITY = {
    "entityName": "runs",
    "fields": [{"name": "job", "type": "text"}, {"name": "attempt", "type": "number"}],
}
FAST = {"JOB_VISIBILITY_TIMEOUT": "4"}


def install(platform, app_id="shop"):
    platform.install(app_id, WORKER, dataContract=[ENTITY])


def runs(platform, app_id="shop"):
    """Return how often each job was begun."""
    with (
        psycopg2.connect(platform.database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SELECT job FROM {app_id}.runs")
        return Counter(int(row[0]) for row in cursor.fetchall())


def sql(platform, statement):
    with (
        psycopg2.connect(platform.database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def batch(platform, count, app_id="shop", **payload):
    body = {"jobs": [{"payload": {"n": n, **payload}} for n in range(count)]}
    answer = platform.admin.post(f"/apps/{app_id}/jobs/batch", json=body)
    assert answer.status_code == 201, answer.text
    return set(answer.json()["msg_ids"])


def test_a_job_runs_once_and_is_archived(shared_platform):
    install(shared_platform, "once")
    ids = batch(shared_platform, 40, "once")
    shared_platform.wait_archived("once", ids)
    assert runs(shared_platform, "once") == dict.fromkeys(ids, 1)
    assert shared_platform.admin.get("/apps/once/jobs").json() == []


def test_a_raising_handler_leaves_one_dead_letter(shared_platform):
    install(shared_platform, "dead")
    msg_id = shared_platform.enqueue("dead", {"raise": "no such contact"})

    def failed():
        return shared_platform.admin.get("/apps/dead/jobs", params={"state": "failed"}).json()

    (dead,) = wait_until(failed)
    assert (dead["msg_id"], dead["reason"], dead["read_ct"]) == (
        msg_id,
        "handler error: no such contact",
        1,
    )
    assert shared_platform.admin.get("/apps/dead/jobs").json() == []
    assert shared_platform.archived("dead") == set()


def test_a_handler_may_ask_for_another_try_or_give_up_and_show_progress(shared_platform):
    worker = """
from trellis_worker import Reject, Retry, serve
def on_job(payload, caller, ctx):
    ctx.job.progress(0.5, "half")
    if ctx.job.read_ct < 3:
        raise Retry(delay=0)
    raise Reject("no such customer")
serve(on_job=on_job)
"""
    shared_platform.install("asks", worker)
    msg_id = shared_platform.enqueue("asks", {})

    def job():
        return shared_platform.admin.get(f"/apps/asks/jobs/{msg_id}").json()

    wait_until(lambda: job()["state"] == "failed", timeout=30, what="the rejection")
    failed = shared_platform.admin.get("/apps/asks/jobs", params={"state": "failed"}).json()
    assert [(f["reason"], f["read_ct"]) for f in failed] == [("no such customer", 3)]
    assert job()["progress"] == 0.5


def test_attempts_and_delays(shared_platform):
    install(shared_platform, "later")
    body = {"payload": {"raise": "x"}, "maxAttempts": 2}
    msg_id = shared_platform.admin.post("/apps/later/jobs", json=body).json()["msg_id"]
    job = wait_until(
        lambda: (
            (j := shared_platform.admin.get(f"/apps/later/jobs/{msg_id}").json())["attempts"] == 1
            and j
        )
    )
    assert (job["state"], job["last_error"]) == ("queued", "x")
    delayed = shared_platform.admin.post("/apps/later/jobs", json={"delay": 2}).json()["msg_id"]
    began = time.monotonic()
    shared_platform.wait_archived("later", {delayed})
    assert 1.8 < time.monotonic() - began < 6


def test_a_stopped_worker_leaves_its_jobs_untouched_until_it_starts(shared_platform):
    install(shared_platform, "still")
    assert shared_platform.admin.post("/apps/still/worker/stop").status_code == 200
    msg_id = shared_platform.enqueue("still", {})
    time.sleep(3)
    (job,) = shared_platform.admin.get("/apps/still/jobs").json()
    assert (job["msg_id"], job["read_ct"]) == (msg_id, 0)
    assert shared_platform.admin.post("/apps/still/worker/start").status_code == 200
    shared_platform.wait_archived("still", {msg_id})


def test_a_hang_is_delivered_again_and_extend_prevents_it(start_platform):
    platform = start_platform("web", "worker", "beat", **FAST)
    install(platform)
    hanging = platform.enqueue("shop", {"seconds": 6})
    extended = platform.enqueue("shop", {"seconds": 6, "extend": 60})
    platform.wait_archived("shop", {hanging, extended})
    time.sleep(4)
    assert runs(platform) == {hanging: 2, extended: 1}
    archived = {j["msg_id"]: j for j in platform.admin.get("/apps/shop/jobs?archived=true").json()}
    assert (archived[hanging]["read_ct"], archived[extended]["read_ct"]) == (2, 1)


def test_a_node_that_is_stopped_past_the_timeout_doubles_but_loses_nothing(start_platform):
    platform = start_platform("web", "worker", "beat", **FAST)
    install(platform)
    ids = batch(platform, 60, seconds=0.3)
    wait_until(lambda: runs(platform))
    family = platform.stack.processes["worker"]
    stopped = [family, *family.children(recursive=True)]
    for process in stopped:
        process.suspend()
    platform.stack.start("worker2", "worker")
    platform.wait_archived("shop", ids, timeout=60)
    for process in stopped:
        process.resume()
    time.sleep(3)
    found = runs(platform)
    assert set(found) == ids
    assert sum(found.values()) <= len(ids) + 8, "at most what was in flight runs twice"
    assert sql(platform, "SELECT count(*) FROM trellis.jobs_queue") == [(0,)]
    assert sql(platform, "SELECT count(*) FROM trellis.jobs_dead") == [(0,)]
    after = batch(platform, 20)
    platform.wait_archived("shop", after)


@contextlib.contextmanager
def load(platform, pause_s=0.02):
    """Enqueue tens all the time; give the ids of all that was accepted."""
    ids, ended = set(), threading.Event()

    def enqueue():
        while not ended.wait(pause_s):
            ids.update(batch(platform, 10, seconds=0.01))

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield ids
    finally:
        ended.set()
        thread.join()


def test_redis_flushed_and_gone_under_load_loses_nothing(start_platform):
    """The outage outlasts every delay between attempts; TRELLIS_TEST_OUTAGE=30 makes it longer."""
    platform = start_platform("web", "worker", "beat", **FAST, JOB_MAX_DELIVERIES="2")
    install(platform)
    platform.install("poison", POISON)
    poison = platform.enqueue("poison", {})
    client = redis.Redis.from_url(platform.redis.url)

    def archived():
        return sql(platform, "SELECT count(*) FROM trellis.jobs_archive")[0][0]

    def rate(seconds=1.0):
        before = archived()
        time.sleep(seconds)
        return (archived() - before) / seconds

    with load(platform) as flushed:
        for _ in range(6):
            time.sleep(0.5)
            client.flushall()
    wait_until(lambda: archived() == len(flushed), timeout=60, what="all to be done")
    assert runs(platform) == dict.fromkeys(flushed, 1)
    with load(platform) as first:
        before = rate(3)
        platform.redis.kill()
    with load(platform, pause_s=0.2) as meanwhile:
        time.sleep(float(os.environ.get("TRELLIS_TEST_OUTAGE", "30")))
        platform.redis.start(empty=True)
    with load(platform) as last:
        wait_until(lambda: rate() > before / 2, timeout=10, what="the rate of before")
    assert meanwhile, "jobs are accepted without Redis"
    ids = flushed | first | meanwhile | last
    wait_until(lambda: archived() == len(ids), timeout=60, what="all to be done")
    assert runs(platform) == dict.fromkeys(ids, 1)
    dead = "SELECT msg_id, reason, read_ct FROM trellis.jobs_dead"
    wait_until(lambda: sql(platform, dead), timeout=30, what="the end of the poison")
    assert sql(platform, dead) == [(poison, "exceeded max deliveries", 2)]


def test_a_job_whose_api_process_dies_before_its_wake_up_is_done(start_platform):
    platform = start_platform("web", "worker", "beat")
    install(platform)
    server = psutil.Process(platform.redis.pid)
    server.suspend()
    lost = threading.Thread(target=lambda: _ignore(lambda: platform.enqueue("shop", {})))
    lost.start()
    # The row is committed, and the wake-up cannot have been sent.
    ((msg_id,),) = wait_until(lambda: sql(platform, "SELECT msg_id FROM trellis.jobs_queue"))
    family = platform.stack.processes["web"].children(recursive=True)
    for process in family:
        process.kill()
    platform.stack.kill("web")
    lost.join()
    server.resume()
    done = "SELECT msg_id, read_ct FROM trellis.jobs_archive"
    wait_until(lambda: sql(platform, done), timeout=30, what="the job to be found")
    assert sql(platform, done) == [(msg_id, 1)]
    assert runs(platform) == {msg_id: 1}


def _ignore(call):
    with contextlib.suppress(httpx.HTTPError):
        call()


def test_killing_one_of_two_workers_under_load_loses_nothing(start_platform):
    platform = start_platform("web", "worker", "beat", **FAST)
    platform.stack.start("worker2", "worker")
    install(platform)
    ids = batch(platform, 300, seconds=0.03)
    wait_until(lambda: len(runs(platform)) > 30)
    platform.stack.kill("worker", signal.SIGKILL)
    wait_until(
        lambda: sql(platform, "SELECT count(*) FROM trellis.jobs_archive") == [(300,)], timeout=60
    )
    found = runs(platform)
    assert set(found) == ids
    assert sum(found.values()) <= 300 + 8 + 64


def test_an_orderly_shutdown_of_the_node_makes_its_jobs_visible_at_once(start_platform):
    platform = start_platform("web", "worker", "beat")
    install(platform)
    ids = {platform.enqueue("shop", {"seconds": 30}) for _ in range(3)}
    wait_until(lambda: len(runs(platform)) == 3)
    platform.stack.kill("worker", signal.SIGTERM)
    jobs = platform.admin.get("/apps/shop/jobs").json()
    assert {job["msg_id"] for job in jobs} == ids
    assert sql(platform, "SELECT count(*) FROM trellis.jobs_queue WHERE vt > now()") == [(0,)]
    platform.stack.start("worker")
    wait_until(
        lambda: all(j["read_ct"] == 2 for j in platform.admin.get("/apps/shop/jobs").json()),
        timeout=30,
    )


@pytest.mark.slow
def test_restarting_postgres_under_load_loses_nothing(start_platform):
    """The servers of this test are its own: nobody else's database goes away."""
    from app.embedded.servers import temporary_state_dir
    from migrations.runner import upgrade

    with temporary_state_dir() as state_dir:
        postgres = EmbeddedPostgres(state_dir)
        url = postgres.start()
        try:
            upgrade(url.replace("postgresql://", "postgresql+psycopg2://"))
            platform = start_platform("web", "worker", "beat", DATABASE_URL=url, **FAST)
            platform.database_url = url
            install(platform)
            cron = platform.admin.post(
                "/apps/shop/crons", json={"name": "c", "schedule": "1 seconds", "payload": {}}
            ).json()
            ids = batch(platform, 200, seconds=0.03)
            wait_until(lambda: len(runs(platform)) > 20)
            for mode in ("fast", "immediate"):
                postgres.stop(mode)
                time.sleep(2)
                postgres.start()
                ids |= wait_until(lambda: _accepted(platform), timeout=30, what="the API")
            wait_until(
                lambda: (
                    ids
                    <= {row[0] for row in sql(platform, "SELECT msg_id FROM trellis.jobs_archive")}
                ),
                timeout=90,
            )
            before = sql(platform, "SELECT count(*) FROM trellis.cron_runs")
            wait_until(
                lambda: sql(platform, "SELECT count(*) FROM trellis.cron_runs") > before,
                timeout=20,
                what="the cron to tick on",
            )
            assert (
                sql(
                    platform,
                    "SELECT cron_id FROM trellis.cron_runs GROUP BY cron_id, scheduled_for HAVING count(*) > 1",
                )
                == []
            )
            assert cron["id"]
        finally:
            postgres.stop()


def _accepted(platform):
    """Enqueue some more jobs; nothing while the API finds no database."""
    body = {"jobs": [{"payload": {"n": n, "seconds": 0.03}} for n in range(100)]}
    answer = platform.admin.post("/apps/shop/jobs/batch", json=body)
    return set(answer.json()["msg_ids"]) if answer.status_code == 201 else set()


def test_two_beats_tick_once_and_one_takes_over(start_platform):
    platform = start_platform("web", "worker", "beat")
    platform.stack.start("beat2", "beat")
    install(platform)
    platform.admin.post(
        "/apps/shop/crons", json={"name": "c", "schedule": "1 seconds", "overlapPolicy": "queue"}
    )
    wait_until(lambda: len(runs(platform)) >= 3)
    leader = next(
        name for name in ("beat", "beat2") if "scheduler_leads" in platform.stack.log(name)
    )
    platform.stack.kill(leader, signal.SIGKILL)
    before = len(runs(platform))
    wait_until(lambda: len(runs(platform)) >= before + 3, timeout=20)
    moments = [
        row[0] for row in sql(platform, "SELECT scheduled_for FROM trellis.cron_runs ORDER BY 1")
    ]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(moments)]
    assert min(gaps) > 0.5
    assert all(count == 1 for count in runs(platform).values())


def test_skip_with_a_stopped_worker_queues_one_and_queue_piles_up(shared_platform):
    install(shared_platform, "pile")
    shared_platform.admin.post("/apps/pile/worker/stop")
    ids = {
        policy: shared_platform.admin.post(
            "/apps/pile/crons",
            json={"name": policy, "schedule": "1 seconds", "overlapPolicy": policy},
        ).json()["id"]
        for policy in ("skip", "queue")
    }

    def queued():
        return Counter(
            job["payload"]["cron_id"] for job in shared_platform.admin.get("/apps/pile/jobs").json()
        )

    wait_until(lambda: queued()[ids["queue"]] >= 3)
    assert queued()[ids["skip"]] == 1
    trigger = shared_platform.admin.post(f"/apps/pile/crons/{ids['skip']}/trigger")
    assert trigger.status_code == 200
    assert queued()[ids["skip"]] == 2
    for cron_id in ids.values():
        off = shared_platform.admin.patch(
            f"/apps/pile/crons/{cron_id}", json={"enabled": False}
        ).json()
        assert off["pgJobId"] is None
    time.sleep(1.5)
    before = queued()
    time.sleep(2.5)
    assert queued() == before
