"""Q1, Q2, Q3, Q7 and Q10: jobs and crons. ``python -m tests.bench.jobs [Q1 Q2 ...]``.

Each quantity prints ours, the floor and the peers of the same run, the ratios, and what was lost or
doubled.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from celery import Celery
from redis import Redis
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from app.core.statements import DirectSession, fetch
from app.jobs import repository
from app.jobs.repository import QUEUE, State
from tests.bench import cron_peers, job_peers, load, stacks
from tests.bench.job_peers import spread
from tests.bench.rounds import FULL, Rounds
from tests.support.stack import ROOT, free_port

NOTHING = "from trellis_worker import serve\ndef on_job(payload): pass\nserve(on_job=on_job)\n"
CLOCK = """
import time
from trellis_worker import serve
SEEN = {}
def on_job(payload, caller, ctx):
    SEEN[ctx.job.id] = time.time()
serve(rpc={"seen": lambda: SEEN}, on_job=on_job)
"""

EIGHT = (
    "INSERT INTO trellis.jobs_queue (app_id, source, payload)"
    " SELECT 'far', 'api', '{\"type\":\"send_report\"}' FROM generate_series(1, 8)"
)


@dataclass(frozen=True)
class Plain:
    """The running floor."""

    port: int
    celery: Celery
    redis: Redis

    def left(self) -> int:
        """Return how many tasks wait or run."""
        return int(self.redis.llen("plain")) + int(self.redis.hlen("unacked"))


@contextmanager
def plain(bench: stacks.Bench) -> Iterator[Plain]:
    """Run the floor on the same servers as ours."""
    database = bench.stack.env["DATABASE_URL"].replace("+psycopg2", "")
    redis_url = bench.stack.env["REDIS_URL"].rpartition("/")[0] + "/1"
    run_sql(
        bench, "CREATE TABLE IF NOT EXISTS plain_jobs (id bigserial PRIMARY KEY, payload jsonb)"
    )
    port = free_port()
    env = {**os.environ, "PLAIN_REDIS": redis_url, "PLAIN_DATABASE": database}
    bin_ = Path(sys.executable).parent
    web = [bin_ / "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}"]
    worker = [bin_ / "celery", "-A", "tests.bench.plain_jobs:celery", "worker", "-l", "ERROR"]
    worker += ["--pool", "threads", "--concurrency", "16", "--without-gossip", "--without-mingle"]
    quiet = {"cwd": ROOT, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([*web, "tests.bench.plain_jobs:app"], **quiet),
        subprocess.Popen(worker, **quiet),
    ]
    celery = Celery("plain", broker=redis_url)
    try:
        found = Plain(port, celery, Redis.from_url(redis_url))
        celery.send_task("nothing", queue="plain")
        wait_for(lambda: found.left() == 0 and found.redis.smembers("_kombu.binding.plain"), 30)
        yield found
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def wait_for(condition: Callable[[], object], timeout_s: float, pause_s: float = 0.01) -> float:
    """Return the seconds until a condition holds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError
        time.sleep(pause_s)
    return time.perf_counter() - began


def run_sql(bench: stacks.Bench, statement: str) -> list[tuple[object, ...]]:
    """Run one statement on the platform's database."""
    url = bench.stack.env["DATABASE_URL"].replace("+psycopg2", "")
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def queued(bench: stacks.Bench) -> int:
    """Return how many jobs wait or run."""
    return int(run_sql(bench, "SELECT count(*) FROM trellis.jobs_queue")[0][0])  # type: ignore[call-overload]


def q1_enqueue(ours: stacks.Bench, rounds: Rounds) -> None:
    """Enqueue over HTTP with 16 clients, durable before the answer."""
    body = b'{"payload":{"type":"send_report","n":1}}'
    with plain(ours) as floor:
        sides = {
            "ours": (
                load.request("/api/v1/apps/nothing/jobs", body, token=ours.token, port=ours.port),
                ours.port,
            ),
            "plain": (load.request("/jobs", body, port=floor.port), floor.port),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        p50s: dict[str, list[float]] = {name: [] for name in sides}
        sent = 0
        for number in range(rounds.total):
            for name, (data, port) in sides.items():
                seconds = rounds.seconds if number >= rounds.warm_ups else 0.5
                one = load.run(data, b"", port=port, clients=16, seconds=seconds)
                sent += len(one.latencies_ms) if name == "ours" else 0
                if number >= rounds.warm_ups:
                    rates[name].append(one.per_second)
                    p50s[name].append(one.p50)
                wait_for(lambda: queued(ours) == 0 and floor.left() == 0, 120, 0.1)
        stored = run_sql(
            ours, "SELECT count(*) FROM trellis.jobs_archive WHERE app_id = 'nothing'"
        )[0][0]
    for name in sides:
        print(
            f"Q1 {name:5s} {spread(rates[name])} per s   p50 {statistics.median(p50s[name]):.1f} ms"
        )
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["plain"])
    print(f"Q1 ratio {ratio:.2f} (must >= 1.2, aim 2.8); sent {sent}, done {stored}")
    job_peers.compare("Q1", ours, job_peers.enqueue_rate, rounds)


def q2_latency(ours: stacks.Bench, rounds: Rounds) -> None:
    """From the start of the enqueueing transaction to the handler's first line, idle."""
    ours.install("clock", CLOCK)
    for number in range(rounds.waits + 30):
        ours.admin.post("/apps/clock/jobs", json={"payload": number})
        time.sleep(0.02)
    wait_for(lambda: queued(ours) == 0, 20)
    seen = ours.admin.post("/apps/clock/rpc", json={"method": "seen"}).json()
    rows = run_sql(
        ours,
        "SELECT msg_id, extract(epoch FROM enqueued_at) FROM trellis.jobs_archive WHERE app_id = 'clock' ORDER BY 1",
    )
    found = sorted((seen[str(n)] - float(at)) * 1000 for n, at in rows[30:])  # type: ignore[arg-type]
    p50, p99 = statistics.median(found), found[int(len(found) * 0.99)]
    print(f"Q2 commit to handler p50 {p50:.1f} ms, p99 {p99:.1f} ms (must 5 / 20, aim 2 / 8)")
    for name, theirs in job_peers.compare("Q2", ours, job_peers.latency, rounds).items():
        print(f"Q2 p50 ratio to {name} {p50 / theirs:.2f}")


def q3_throughput(ours: stacks.Bench, rounds: Rounds) -> None:
    """Durable no-op jobs per second, against no-op Celery tasks."""
    with plain(ours) as floor:
        mine = [_ours_once(ours, rounds.jobs) for _ in range(rounds.total)][rounds.warm_ups :]
        theirs = [_plain_once(floor, rounds.jobs) for _ in range(rounds.total)][rounds.warm_ups :]
    total, distinct = run_sql(
        ours,
        "SELECT count(*), count(DISTINCT msg_id) FROM trellis.jobs_archive WHERE app_id = 'nothing'",
    )[0]
    repeated = run_sql(ours, "SELECT count(*) FROM trellis.jobs_archive WHERE read_ct > 1")[0][0]
    print(
        f"Q3 ours  {spread(mine)} jobs/s   archived {total} (distinct {distinct}), delivered twice {repeated}"
    )
    print(f"Q3 plain {spread(theirs)} tasks/s, not durable")
    ratio = statistics.median(mine) / statistics.median(theirs)
    print(f"Q3 ratio {ratio:.2f} (must >= 2.4, aim 7.5)")
    for name, rate in job_peers.compare("Q3", ours, job_peers.throughput, rounds).items():
        print(f"Q3 ratio to {name} {statistics.median(mine) / rate:.2f}")


def _ours_once(ours: stacks.Bench, count: int) -> float:
    ours.admin.post("/apps/nothing/worker/stop").raise_for_status()
    for _ in range(count // 1000):
        body = {"jobs": [{"payload": {"n": n}} for n in range(1000)]}
        ours.admin.post("/apps/nothing/jobs/batch", json=body).raise_for_status()
    ours.admin.post("/apps/nothing/worker/start").raise_for_status()
    wait_for(lambda: queued(ours) < count, 30, 0.001)
    began, left = time.perf_counter(), queued(ours)
    wait_for(lambda: queued(ours) == 0, 120, 0.02)
    return left / (time.perf_counter() - began)


def _plain_once(floor: Plain, count: int) -> float:
    floor.celery.control.cancel_consumer("plain")
    time.sleep(0.5)
    with floor.celery.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            floor.celery.send_task("nothing", queue="plain", producer=producer)
    floor.celery.control.add_consumer("plain")
    wait_for(lambda: floor.left() < count, 30, 0.001)
    began, left = time.perf_counter(), floor.left()
    wait_for(lambda: floor.left() == 0, 120, 0.02)
    return left / (time.perf_counter() - began)


def q7_crons(ours: stacks.Bench, rounds: Rounds) -> None:
    """Lateness of crons due in the same minute: until their jobs are committed."""
    ours.admin.post("/apps", json={"appId": "cronbench", "name": "c"}).raise_for_status()
    for count, must, aim in ((1, 100, 20), (1000, 250, 50), (10_000, 1000, 250)):
        run_sql(
            ours,
            f"""
            INSERT INTO trellis.cron_schedules (id, app_id, name, schedule, created_by, overlap_policy, payload)
            SELECT gen_random_uuid(), 'cronbench', 'c' || n, '* * * * *', (SELECT id FROM trellis.users WHERE email = 'bench@example.com'), 'queue', '{{"a":1}}'
            FROM generate_series(1, {count}) n""",
        )
        run_sql(ours, "NOTIFY trellis_crons")
        if time.time() % 60 > 50:
            time.sleep(12)
        time.sleep(62 - time.time() % 60)
        wait_for(
            lambda: (
                not run_sql(ours, "SELECT 1 FROM trellis.cron_runs WHERE status = 'due' LIMIT 1")
            ),
            30,
        )
        rows = run_sql(
            ours,
            "SELECT extract(epoch FROM end_time - scheduled_for) * 1000 FROM trellis.cron_runs ORDER BY 1",
        )
        jobs = run_sql(
            ours,
            "SELECT count(*), count(DISTINCT cron_id) FROM trellis.jobs_queue WHERE app_id = 'cronbench'",
        )[0]
        run_sql(ours, "DELETE FROM trellis.cron_schedules")
        run_sql(ours, "DELETE FROM trellis.jobs_queue")
        late = [float(row[0]) for row in rows]  # type: ignore[arg-type]
        p99 = late[min(len(late) - 1, int(len(late) * 0.99))]
        print(
            f"Q7 {count:6d} due: p50 {statistics.median(late):.0f} ms, p99 {p99:.0f} ms (must {must}, aim {aim}); jobs {jobs[0]} for {jobs[1]} crons"
        )
    cron_peers.lateness(ours)


def q10_long_queue(ours: stacks.Bench, rounds: Rounds) -> None:
    """Claim rate and list latency with 1k and with 1M queued jobs."""
    engine = create_engine(ours.stack.env["DATABASE_URL"])
    run_sql(ours, "DELETE FROM trellis.jobs_queue")
    rates = {}
    for count in (1_000, 1_000_000):
        run_sql(
            ours,
            f"""
            INSERT INTO trellis.jobs_queue (app_id, source, payload)
            SELECT 'far', 'api', '{{"type":"send_report"}}' FROM generate_series(1, {count} - (SELECT count(*) FROM trellis.jobs_queue))""",
        )
        run_sql(ours, "ANALYZE trellis.jobs_queue")
        rates[count] = statistics.median(_claims(engine) for _ in range(rounds.measured))
        with Session(engine) as session:
            lists = sorted(_timed_list(session) for _ in range(300))
        print(
            f"Q10 {count:8d} queued: {rates[count]:.0f} claims of 8 per s, list of 100 p50 {lists[150]:.1f} ms, p99 {lists[296]:.1f} ms (must 10)"
        )
    print(f"Q10 ratio {rates[1_000_000] / rates[1_000]:.2f} (must >= 0.9)")
    engine.dispose()


def _claims(engine: Engine, seconds: float = 1.0) -> float:
    """Claim eights as a pump does; archive them and enqueue as many, which is not timed."""
    lane, done, spent = {"app_id": "far", "route": "worker"}, 0, 0.0
    with DirectSession(engine) as session:
        while spent < seconds:
            began = time.perf_counter()
            claimed = QUEUE.claim(session, lane, quantity=8, vt_s=60, quick=True)
            spent += time.perf_counter() - began
            done += 1
            QUEUE.archive(session, [one.msg_id for one in claimed])
            fetch(session, EIGHT, ())
    return done / spent


def _timed_list(session: Session) -> float:
    began = time.perf_counter()
    repository.page(session, "far", State.ACTIVE, most=100)
    session.rollback()
    return (time.perf_counter() - began) * 1000


QUANTITIES = {
    "Q1": q1_enqueue,
    "Q2": q2_latency,
    "Q3": q3_throughput,
    "Q7": q7_crons,
    "Q10": q10_long_queue,
}


def main(wanted: list[str], rounds: Rounds = FULL) -> None:
    """Measure the wanted quantities; all when none is named."""
    for name in wanted or QUANTITIES:
        with stacks.platform("web", "worker", "beat") as ours:
            ours.install("nothing", NOTHING)
            QUANTITIES[name](ours, rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
