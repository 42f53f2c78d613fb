"""From due ticks to jobs, on real Postgres."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.events import Subscriptions
from app.core.uow import UnitOfWorkFactory
from app.crons import firing, repository
from app.crons.ticker import SHARDS, Tick

NOON = datetime(2027, 5, 5, 12, tzinfo=UTC)


class Silent:
    def publish(self, messages):
        pass


@pytest.fixture
def open_uow(platform):
    return UnitOfWorkFactory(platform.engine, Silent(), Subscriptions())


@pytest.fixture
def sql(platform):
    def run(statement, **values):
        with Session(platform.engine) as session, session.begin():
            result = session.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    return run


@pytest.fixture
def owner(sql):
    owner = uuid4()
    sql("INSERT INTO trellis.users (id, email) VALUES (:id, 'ana@example.com')", id=owner)
    sql("INSERT INTO trellis.apps (id, name, version, manifest) VALUES ('crm', 'crm', '1', '{}')")
    sql("INSERT INTO trellis.scheduler_state (id, last_minute) VALUES (1, :m)", m=NOON)
    return owner


@pytest.fixture
def cron(sql, owner):
    def make(
        name="c",
        *,
        policy="skip",
        payload='{"a": 1}',
        enabled=True,
        created_by=owner,
        schedule="* * * * *",
    ):
        cron_id = uuid4()
        sql(
            "INSERT INTO trellis.cron_schedules (id, app_id, name, schedule, payload, overlap_policy, enabled, created_by)"
            " VALUES (:id, 'crm', :name, :schedule, CAST(:payload AS jsonb), :policy, :enabled, :owner)",
            id=cron_id,
            name=name,
            schedule=schedule,
            payload=payload,
            policy=policy,
            enabled=enabled,
            owner=created_by,
        )
        return cron_id

    return make


@pytest.fixture
def tick(open_uow):
    def write(*cron_ids, minute=0, interval=False):
        moment = NOON + timedelta(minutes=minute)
        with open_uow() as uow:
            ticks = [Tick(cron_id, moment, interval) for cron_id in cron_ids]
            return repository.write_ticks(uow.session, ticks, minute=moment)

    return write


@pytest.fixture
def fire(open_uow):
    def run():
        with open_uow() as uow:
            return sum(firing.fire(uow, shard) for shard in firing.due_shards(uow.session))

    return run


def outcomes(sql):
    return sql("SELECT status, return_message FROM trellis.cron_runs ORDER BY runid")


def test_a_tick_becomes_one_job(sql, owner, cron, tick, fire):
    cron_id = cron()
    assert tick(cron_id) == 1
    assert fire() == 1
    assert fire() == 0
    ((msg_id, app_id, user_id, source, route, found, payload),) = sql(
        "SELECT msg_id, app_id, user_id, source, route, cron_id, payload FROM trellis.jobs_queue"
    )
    assert (app_id, user_id, source, route, found) == ("crm", owner, "cron", "worker", cron_id)
    assert payload == {"a": 1, "cron_id": str(cron_id)}
    ((status, message, linked, scheduled, ended),) = sql(
        "SELECT status, return_message, msg_id, scheduled_for, end_time >= start_time FROM trellis.cron_runs"
    )
    assert (status, message, linked, scheduled, ended) == (
        "succeeded",
        f"enqueued msg {msg_id}",
        msg_id,
        NOON,
        True,
    )


def test_a_tick_is_written_once_and_the_minute_never_goes_back(sql, cron, tick):
    cron_id = cron()
    assert tick(cron_id, minute=1) == 1
    assert tick(cron_id, minute=1) == 0
    assert sql("SELECT last_minute FROM trellis.scheduler_state") == [
        (NOON + timedelta(minutes=1),)
    ]
    tick(minute=0)
    assert sql("SELECT last_minute FROM trellis.scheduler_state") == [
        (NOON + timedelta(minutes=1),)
    ]


def test_only_intervals_count_from_their_last_tick(sql, cron, tick):
    calendar, interval = cron("c"), cron("i", schedule="5 seconds")
    tick(calendar)
    tick(interval, minute=1, interval=True)
    marks = dict(sql("SELECT id, last_tick_at FROM trellis.cron_schedules"))
    assert marks == {calendar: None, interval: NOON + timedelta(minutes=1)}


def test_skip_queues_one_while_the_other_waits(sql, cron, tick, fire):
    cron_id = cron()
    for minute in range(4):
        tick(cron_id, minute=minute)
        fire()
    assert len(sql("SELECT 1 FROM trellis.jobs_queue")) == 1
    assert [o[0] for o in outcomes(sql)] == ["succeeded", "skipped", "skipped", "skipped"]
    sql("UPDATE trellis.jobs_queue SET fresh = false, vt = now() + interval '1 h', read_ct = 1")
    tick(cron_id, minute=5)
    fire()
    assert outcomes(sql)[-1][0] == "skipped", "in flight counts as well"
    sql("DELETE FROM trellis.jobs_queue")
    tick(cron_id, minute=6)
    fire()
    assert outcomes(sql)[-1][0] == "succeeded"


def test_caught_up_ticks_collapse_with_skip_and_pile_up_with_queue(sql, cron, tick, fire):
    skipping, queueing = cron("s"), cron("q", policy="queue")
    for minute in range(5):
        tick(skipping, queueing, minute=minute)
    assert fire() == 10
    counts = dict(sql("SELECT cron_id, count(*) FROM trellis.jobs_queue GROUP BY 1"))
    assert counts == {skipping: 1, queueing: 5}
    assert sorted(o[0] for o in outcomes(sql)) == ["skipped"] * 4 + ["succeeded"] * 6


@pytest.mark.parametrize("trouble", ["disabled owner", "no owner", "disabled cron"])
def test_without_an_enabled_owner_a_tick_fails(sql, cron, tick, fire, trouble):
    cron_id = cron()
    tick(cron_id)
    sql(
        {
            "disabled owner": "UPDATE trellis.users SET disabled_at = now()",
            "no owner": "DELETE FROM trellis.users",
            "disabled cron": "UPDATE trellis.cron_schedules SET enabled = false",
        }[trouble]
    )
    fire()
    assert outcomes(sql) == [("failed", "cron has no enabled owner")]
    assert sql("SELECT 1 FROM trellis.jobs_queue") == []


def test_a_disabled_cron_gets_no_new_ticks(sql, cron, tick):
    assert tick(cron(enabled=False)) == 0


def test_an_interval_has_at_most_one_tick_pending(sql, cron, tick, fire):
    cron_id = cron(policy="queue", schedule="5 seconds")
    assert tick(cron_id, interval=True) == 1
    assert tick(cron_id, minute=1, interval=True) == 0
    fire()
    assert tick(cron_id, minute=2, interval=True) == 1


@pytest.mark.parametrize("payload", ["[1]", "null", "5", '"text"'])
def test_payloads_that_are_no_objects_stay(sql, cron, tick, fire, payload):
    import json

    tick(cron(payload=payload))
    fire()
    assert sql("SELECT payload FROM trellis.jobs_queue") == [(json.loads(payload),)]


@pytest.mark.parametrize(
    ("payload", "deployed", "route"),
    [
        ("{}", True, "worker"),
        ('{"message": "hi"}', True, "agent"),
        ("{}", False, "agent"),
        ('{"message": 5}', True, "worker"),
    ],
)
def test_the_route_of_an_app_with_an_agent(sql, cron, tick, fire, payload, deployed, route):
    tick(cron(payload=payload))
    sql("UPDATE trellis.apps SET has_agent = true")
    if deployed:
        sql(
            "INSERT INTO trellis.deployments (id, app_id, archive, sha256, size_bytes, entry_point, runtime, is_current)"
            " VALUES (:id, 'crm', '', '', 0, 'worker.py', 'python', true)",
            id=uuid4(),
        )
        sql("INSERT INTO trellis.app_workers (app_id) VALUES ('crm')")
    fire()
    assert sql("SELECT route FROM trellis.jobs_queue") == [(route,)]


def test_firing_at_once_on_many_nodes_doubles_nothing(sql, cron, tick, open_uow, platform):
    crons = [cron(f"c{n}", policy="skip" if n % 2 else "queue") for n in range(60)]
    for minute in range(3):
        tick(*crons, minute=minute)
    done = []

    def run():
        fired = 1
        while fired:
            with open_uow() as uow:
                shards = firing.due_shards(uow.session)
            fired = len(shards)
            for shard in shards:
                with open_uow() as uow:
                    done.append(firing.fire(uow, shard, most=7))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 180
    counts = dict(sql("SELECT cron_id, count(*) FROM trellis.jobs_queue GROUP BY 1"))
    assert counts == {cron_id: (1 if n % 2 else 3) for n, cron_id in enumerate(crons)}


def test_a_crash_before_the_commit_leaves_the_tick_due(sql, cron, tick, fire, open_uow):
    tick(cron())
    with pytest.raises(RuntimeError), open_uow() as uow:
        (shard,) = firing.due_shards(uow.session)
        assert firing.fire(uow, shard) == 1
        raise RuntimeError("node died")
    assert outcomes(sql) == [("due", None)]
    assert sql("SELECT 1 FROM trellis.jobs_queue") == []
    fire()
    assert len(sql("SELECT 1 FROM trellis.jobs_queue")) == 1


def test_stale_ticks_are_noticed(sql, cron, tick, fire, open_uow):
    tick(cron())
    with open_uow() as uow:
        assert not repository.has_stale_due(uow.session, age_s=2)
        sql("UPDATE trellis.cron_runs SET start_time = now() - interval '3 s'")
        assert repository.has_stale_due(uow.session, age_s=2)
    fire()
    with open_uow() as uow:
        assert not repository.has_stale_due(uow.session, age_s=2)


def test_old_runs_are_pruned(sql, cron, tick, fire, open_uow):
    cron_id = cron(policy="queue")
    tick(cron_id)
    tick(cron_id, minute=1)
    fire()
    sql(
        "UPDATE trellis.cron_runs SET start_time = now() - interval '8 d' WHERE scheduled_for = :m",
        m=NOON,
    )
    with open_uow() as uow:
        assert repository.prune_runs(uow.session, age_s=7 * 86400) == 1
    assert sql("SELECT scheduled_for FROM trellis.cron_runs") == [(NOON + timedelta(minutes=1),)]


@pytest.mark.slow
def test_ten_thousand_ticks_are_fired_within_five_seconds(sql, owner, tick, open_uow):
    sql(
        "INSERT INTO trellis.cron_schedules (id, app_id, name, schedule, created_by)"
        " SELECT gen_random_uuid(), 'crm', 'c' || n, '0 12 * * *', :owner FROM generate_series(1, 10000) n",
        owner=owner,
    )
    crons = [row[0] for row in sql("SELECT id FROM trellis.cron_schedules")]

    def fire_all(shard):
        counts = [firing.BATCH]
        while counts[-1] == firing.BATCH:
            with open_uow() as uow:
                counts.append(firing.fire(uow, shard))
        return sum(counts[1:])

    began = time.monotonic()
    assert tick(*crons) == 10_000
    with ThreadPoolExecutor(SHARDS) as pool:
        assert sum(pool.map(fire_all, range(SHARDS))) == 10_000
    took = time.monotonic() - began
    assert sql("SELECT count(DISTINCT cron_id), count(*) FROM trellis.jobs_queue") == [
        (10_000, 10_000)
    ]
    assert took < 5
    print(f"10,000 ticks in {took * 1000:.0f} ms")
