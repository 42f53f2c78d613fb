"""Leadership and ticking on real Postgres, with a clock that tests turn."""

import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.crons.leader import Leader
from app.crons.repository import SHARD
from app.crons.ticker import shard_of
from tests.support.stack import wait_until

START = datetime(2027, 5, 5, 11, 59, 58, tzinfo=UTC)


class Clock:
    """Runs like the wall clock from a moment that can be moved."""

    def __init__(self, start=START):
        self.set(start)

    def set(self, moment):
        self._base, self._began = moment, time.monotonic()

    def __call__(self):
        return self._base + timedelta(seconds=time.monotonic() - self._began)


@pytest.fixture
def sql(platform):
    def run(statement, **values):
        with Session(platform.engine) as session, session.begin():
            result = session.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    return run


@pytest.fixture
def cron(sql):
    owner = uuid4()
    sql("INSERT INTO trellis.users (id, email) VALUES (:id, 'ana@example.com')", id=owner)
    sql("INSERT INTO trellis.apps (id, name, version, manifest) VALUES ('crm', 'crm', '1', '{}')")

    def make(schedule="* * * * *", anchor=START - timedelta(days=1)):
        cron_id = uuid4()
        sql(
            "INSERT INTO trellis.cron_schedules (id, app_id, name, schedule, created_by, anchor_at) VALUES (:id, 'crm', :name, :s, :o, :a)",
            id=cron_id,
            name=str(cron_id),
            s=schedule,
            o=owner,
            a=anchor,
        )
        sql("NOTIFY trellis_crons")
        return cron_id

    return make


@pytest.fixture
def start(platform):
    """Run leaders on threads, as beats run in processes."""
    stop, threads, leaders = threading.Event(), [], []

    def run(clock, fired=None, retry_s=0.05):
        leader = Leader(
            platform.engine,
            retry_s=retry_s,
            fire=([] if fired is None else fired).append,
            clock=clock,
        )

        def loop():
            while not stop.is_set():
                leader.step()
            leader.resign()

        thread = threading.Thread(target=loop)
        thread.start()
        threads.append(thread)
        leaders.append(leader)
        return leader

    yield run
    stop.set()
    for thread in threads:
        thread.join()


def ticks(sql):
    return [
        f"{row[0]:%H:%M}"
        for row in sql("SELECT scheduled_for FROM trellis.cron_runs ORDER BY scheduled_for")
    ]


def test_a_tick_is_written_the_moment_it_is_due(sql, cron, start):
    cron_id = cron()
    fired = []
    start(Clock(), fired)
    wait_until(lambda: ticks(sql) == ["12:00"], timeout=4)
    assert fired == [0]
    ((found, status),) = sql("SELECT cron_id, status FROM trellis.cron_runs")
    assert (found, status) == (cron_id, "due")


def test_a_crowd_is_written_shard_by_shard_and_once_although_the_leader_fails_in_between(
    sql, cron, start
):
    cron()
    sql(
        "INSERT INTO trellis.cron_schedules (id, app_id, name, schedule, created_by, anchor_at)"
        " SELECT gen_random_uuid(), app_id, n::text, schedule, created_by, anchor_at"
        " FROM trellis.cron_schedules, generate_series(1, 1199) n"
    )
    fired = Fired(sql)
    start(Clock(), fired)
    wait_until(lambda: fired[-1:] == [3], timeout=8)
    assert fired == [0, 1, 2, 3]
    assert fired.failed
    assert fired.written[0] == [0]
    runs = sql(f"SELECT cron_id, {SHARD} FROM trellis.cron_runs")
    assert len(runs) == len(dict(runs)) == 1200
    assert {shard for _, shard in runs} == {0, 1, 2, 3}
    assert all(shard_of(cron_id) == shard for cron_id, shard in runs)


class Fired(list):
    """What was fired, and which shards were written by then.

    Ends the leader's connection after the second shard was fired.
    """

    def __init__(self, sql):
        self.sql, self.failed, self.written = sql, False, []

    def append(self, shard):
        super().append(shard)
        self.written.append(
            [n for (n,) in self.sql(f"SELECT DISTINCT {SHARD} FROM trellis.cron_runs ORDER BY 1")]
        )
        if shard == 1 and not self.failed:
            self.failed = True
            self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'trellis-beat-leader' AND datname = current_database()"
            )


def test_the_first_boot_starts_with_the_next_minute(sql, cron, start):
    cron()
    clock = Clock(START.replace(second=20))
    start(clock)
    wait_until(lambda: sql("SELECT last_minute FROM trellis.scheduler_state"))
    time.sleep(0.7)
    assert ticks(sql) == []


@pytest.mark.parametrize(("minutes", "expected"), [(4, 8), (60, 61)])
def test_missed_minutes_are_caught_up_from_what_is_stored(sql, cron, start, minutes, expected):
    """4 minutes: both schedules, all minutes. 60: only the one without stars, all minutes."""
    cron()
    cron("0-59 0-23 * * *")
    sql(
        "INSERT INTO trellis.scheduler_state VALUES (1, :m)", m=datetime(2027, 5, 5, 12, tzinfo=UTC)
    )
    start(Clock(datetime(2027, 5, 5, 12, tzinfo=UTC) + timedelta(minutes=minutes, seconds=1)))
    wait_until(lambda: len(ticks(sql)) == expected)


def test_a_clock_moved_back_ticks_nothing_twice(sql, cron, start):
    cron()
    clock = Clock()
    start(clock)
    wait_until(lambda: ticks(sql) == ["12:00"])
    clock.set(START - timedelta(minutes=10))
    time.sleep(2.5)
    assert ticks(sql) == ["12:00"]
    clock.set(datetime(2027, 5, 5, 12, 0, 59, 500000, tzinfo=UTC))
    wait_until(lambda: ticks(sql) == ["12:00", "12:01"])


def test_changes_are_heard_at_once(sql, cron, start):
    clock = Clock(START.replace(second=10))
    start(clock)
    wait_until(lambda: sql("SELECT last_minute FROM trellis.scheduler_state"))
    cron_id = cron("1 seconds", anchor=clock())
    wait_until(lambda: len(ticks(sql)) == 1, timeout=3)
    sql("UPDATE trellis.cron_runs SET status = 'succeeded'")
    sql("UPDATE trellis.cron_schedules SET enabled = false WHERE id = :id", id=cron_id)
    sql("NOTIFY trellis_crons")
    time.sleep(0.3)
    before = len(ticks(sql))
    time.sleep(1.5)
    assert len(ticks(sql)) == before


def test_two_beats_tick_once_and_the_other_takes_over(sql, cron, start):
    cron("1 seconds", anchor=START - timedelta(hours=1))
    clock = Clock(START.replace(second=10))
    first, second = start(clock), start(clock)
    wait_until(lambda: first.leading or second.leading)
    time.sleep(0.5)
    assert first.leading != second.leading
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trellis-beat-leader' AND datname = current_database() AND query NOT LIKE '%try_advisory%'"
    )
    wait_until(lambda: first.leading != second.leading, timeout=5)
    wait_until(lambda: len(ticks(sql)) >= 1)
    sql("UPDATE trellis.cron_runs SET status = 'succeeded'")
    seen = len(ticks(sql))
    wait_until(lambda: len(ticks(sql)) > seen, timeout=5)
    assert (
        sql(
            "SELECT cron_id, scheduled_for FROM trellis.cron_runs GROUP BY 1, 2 HAVING count(*) > 1"
        )
        == []
    )


def test_a_database_that_is_away_is_waited_for(cron, start, sql):
    cron()
    clock = Clock()
    leader = start(clock)
    wait_until(lambda: leader.leading)
    for _ in range(3):
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trellis-beat-leader' AND datname = current_database()"
        )
        time.sleep(0.2)
    wait_until(lambda: ticks(sql) == ["12:00"], timeout=6)
