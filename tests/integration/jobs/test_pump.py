"""The pump on real Postgres and Redis, with handlers that are Python functions."""

import dataclasses
import threading
import time

import pytest
from sqlalchemy import NullPool, create_engine

from app.core.errors import Invalid
from app.jobs import service
from app.jobs.messages import TakeTurn
from app.jobs.pump import JobPump
from app.jobs.turns import Turns
from app.workers.service import CallOutcome, OutcomeKind
from tests.fakes.worker_host import FakeHost
from tests.support.stack import wait_until


class Recorder:
    """A publisher that keeps turns and gives them back to the pump on request."""

    def __init__(self):
        self.sent = []

    def publish(self, messages):
        self.sent += messages


@pytest.fixture
def host():
    host = FakeHost()
    yield host
    host.close()


@pytest.fixture
def make_pump(world, host):
    pumps = []

    def make(host=host, start_agent_run=None, publisher=None, **jobs):
        pump = JobPump(
            uow=world.platform.uow,
            host=lambda: host,
            turns=Turns(world.platform.redis, per_app=2),
            publisher=publisher or Recorder(),
            jobs=dataclasses.replace(world.platform.settings.jobs, **jobs),
            start_agent_run=start_agent_run,
        )
        pump.start()
        pumps.append(pump)
        return pump

    yield make
    host.unblock()
    for pump in pumps:
        pump.finish(1)


def drained(world, app_id="crm"):
    return (
        wait_until(lambda: not world.ids("jobs_queue", app_id), what="an empty queue") is not None
    )


def test_one_turn_works_off_the_whole_queue(world, host, make_pump):
    sent = world.put(300)
    make_pump().turn("crm")
    drained(world)
    assert world.ids("jobs_archive") == sent
    assert sorted(host.ids()) == sent
    assert {row.read_ct for row in world.sql("SELECT read_ct FROM trellis.jobs_archive")} == {1}


def test_a_job_runs_in_the_name_of_its_owner(world, host, make_pump):
    (msg_id,) = world.put(source="cron")
    make_pump().turn("crm")
    drained(world)
    app_id, message, actor = host.calls[0]
    assert (app_id, actor.user_id, actor.email) == ("crm", world.owner, "ana@example.com")
    assert message["id"] == str(msg_id)
    assert message["payload"] == {"n": 0}
    assert (message["meta"]["read_ct"], message["meta"]["source"]) == (1, "cron")


def test_never_more_in_flight_than_slots(world, host, make_pump):
    host.handler = lambda message, actor: time.sleep(0.002)
    world.put(200)
    make_pump(in_flight_per_app=5).turn("crm")
    drained(world)
    assert host.most_running <= 5


def test_short_jobs_are_handed_out_in_order(world, host, make_pump):
    sent = world.put(100)
    make_pump(in_flight_per_app=1).turn("crm")
    drained(world)
    assert host.ids() == sent


def test_a_turn_holds_no_thread_and_free_slots_go_on(world, host, make_pump):
    host.block()
    world.put(20)
    pump = make_pump(in_flight_per_app=4)
    pump.turn("crm")
    wait_until(lambda: host.running == 4)
    time.sleep(0.1)
    assert host.running == 4
    assert (
        sum(r[0] for r in world.sql("SELECT count(*) FROM trellis.jobs_queue WHERE read_ct = 0"))
        == 16
    )
    host.unblock()
    drained(world)


def test_the_count_of_turns_is_given_back(world, host, make_pump):
    turns = Turns(world.platform.redis, per_app=1)
    assert turns.send(TakeTurn("crm"))
    assert not turns.send(TakeTurn("crm"))
    make_pump().turn("crm")
    wait_until(lambda: world.platform.redis.get("turns:crm") is None)


def test_an_enqueue_during_the_last_look_is_not_lost(world, host, make_pump):
    """Every enqueue asks for a turn unless one is out; none may fall between."""
    pump = make_pump()
    stop = threading.Event()
    turns = Turns(world.platform.redis, per_app=1)
    sent = []

    def enqueue():
        while not stop.is_set():
            sent.extend(world.put())
            if turns.send(TakeTurn("crm")):
                pump.turn("crm")

    threads = [threading.Thread(target=enqueue) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    drained(world)
    assert sorted(host.ids()) == sorted(sent)


def test_a_long_turn_goes_back_to_the_end_of_the_queue(world, host, make_pump, monkeypatch):
    monkeypatch.setattr("app.jobs.pump.TURN_S", 0.05)
    host.handler = lambda message, actor: time.sleep(0.02)
    publisher = Recorder()
    world.put(60)
    pump = make_pump(in_flight_per_app=2, publisher=publisher)
    pump.turn("crm")
    wait_until(lambda: publisher.sent)
    assert publisher.sent[0] == TakeTurn("crm")
    while world.ids("jobs_queue"):
        if publisher.sent:
            publisher.sent.clear()
            pump.turn("crm")
        time.sleep(0.01)
    assert len(host.calls) == 60


def test_apps_do_not_starve_each_other(world, host, make_pump):
    world.add_app("hr")
    host.handler = lambda message, actor: time.sleep(0.005)
    world.put(2000)
    pump = make_pump()
    pump.turn("crm")
    wait_until(lambda: len(host.calls) > 20)
    world.put(20, app_id="hr")
    pump.turn("hr")
    drained(world, "hr")
    assert len(world.ids("jobs_queue", "crm")) > 500


def test_a_raising_handler_makes_a_dead_letter(world, host, make_pump):
    def handler(message, actor):
        raise RuntimeError("no such contact\0")

    host.handler = handler
    (msg_id,) = world.put()
    make_pump().turn("crm")
    drained(world)
    assert world.ids("jobs_archive") == []
    ((found, reason),) = world.sql("SELECT msg_id, reason FROM trellis.jobs_dead")
    assert (found, reason) == (msg_id, "handler error: no such contact\ufffd")


def test_attempts_are_spread_and_counted(world, host, make_pump):
    def handler(message, actor):
        raise RuntimeError("later")

    host.handler = handler
    (msg_id,) = world.put(max_attempts=7)
    pump = make_pump()
    for attempt in range(1, 8):
        pump.turn("crm")
        wait_until(lambda n=attempt: len(host.calls) == n)
        wait_until(lambda: pump.in_flight() == 0)
        world.expire()
    ((found, attempts, read_ct, error),) = world.sql(
        "SELECT msg_id, attempts, read_ct, last_error FROM trellis.jobs_dead"
    )
    assert (found, attempts, read_ct, error) == (msg_id, 7, 7, "later")


def test_a_crash_leaves_the_job_hidden(world, host, make_pump):
    host.handler = lambda message, actor: CallOutcome(
        ok=False, error="worker crashed", kind=OutcomeKind.CRASHED
    )
    world.put()
    pump = make_pump()
    pump.turn("crm")
    wait_until(lambda: host.calls and pump.in_flight() == 0)
    ((read_ct, hidden),) = world.sql(
        "SELECT read_ct, vt > now() + interval '100 s' FROM trellis.jobs_queue"
    )
    assert (read_ct, hidden) == (1, True)


def test_a_stop_makes_it_visible_at_once(world, host, make_pump):
    host.handler = lambda message, actor: CallOutcome(
        ok=False, error="worker stopped", kind=OutcomeKind.STOPPED
    )
    world.put()
    pump = make_pump()
    world.set_desired("crm", "running")
    pump.turn("crm")
    wait_until(lambda: host.calls)
    world.set_desired("crm", "stopped")
    wait_until(lambda: pump.in_flight() == 0)
    ((visible,),) = world.sql("SELECT vt <= now() FROM trellis.jobs_queue")
    assert visible


@pytest.mark.parametrize("state", ["stopped", "no code", "cooling"])
def test_jobs_of_a_worker_that_may_not_run_are_not_read(world, host, make_pump, state):
    if state == "stopped":
        world.set_desired("crm", "stopped")
    elif state == "no code":
        world.sql("DELETE FROM trellis.deployments")
    else:
        world.sql(
            "INSERT INTO trellis.worker_instances (node, app_id, slot, status, last_crash_at) VALUES ('n', 'crm', 0, 'crashed', now())"
        )
    world.put(3)
    pump = make_pump()
    pump.turn("crm")
    wait_until(lambda: world.platform.redis.get("turns:crm") is None)
    time.sleep(0.1)
    assert host.calls == []
    assert {r[0] for r in world.sql("SELECT read_ct FROM trellis.jobs_queue")} == {0}


def test_jobs_without_an_enabled_owner_are_dead(world, host, make_pump):
    import uuid

    world.put(user_id=uuid.uuid4())
    world.put(user_id=None)
    (alive,) = world.put()
    make_pump().turn("crm")
    drained(world)
    assert host.ids() == [alive]
    assert world.sql("SELECT DISTINCT reason, read_ct FROM trellis.jobs_dead") == [
        ("no enabled owner", 0)
    ]
    world.sql("UPDATE trellis.users SET disabled_at = now()")
    world.put()
    make_pump().turn("crm")
    drained(world)
    assert len(host.calls) == 1


def test_the_sixth_delivery_never_happens(world, host, make_pump):
    host.handler = lambda message, actor: CallOutcome(ok=False, kind=OutcomeKind.CRASHED)
    (msg_id,) = world.put()
    pump = make_pump()
    for _ in range(6):
        pump.turn("crm")
        wait_until(lambda: world.platform.redis.get("turns:crm") is None and pump.in_flight() == 0)
        time.sleep(0.05)
        world.expire()
    assert host.ids() == [msg_id] * 5
    assert world.sql("SELECT reason, read_ct FROM trellis.jobs_dead") == [
        ("exceeded max deliveries", 5)
    ]


def test_zero_deliveries_means_no_limit(world, host, make_pump):
    host.handler = lambda message, actor: CallOutcome(ok=False, kind=OutcomeKind.CRASHED)
    world.put()
    pump = make_pump(max_deliveries=0)
    for n in range(8):
        pump.turn("crm")
        wait_until(lambda n=n: len(host.calls) == n + 1)
        wait_until(lambda: pump.in_flight() == 0)
        world.expire()


def test_a_late_answer_counts_and_a_stale_error_does_not(world, host, make_pump):
    host.block()
    first = FakeHost(lambda message, actor: None)
    errors = FakeHost(
        lambda message, actor: CallOutcome(ok=False, error="x", kind=OutcomeKind.HANDLER_ERROR)
    )
    errors.block()
    (msg_id,) = world.put()
    # With no room for a second job it does not look for what the test makes visible again.
    slow = make_pump(host=errors, in_flight_per_app=1)
    slow.turn("crm")
    wait_until(lambda: errors.calls)
    world.expire()
    other = make_pump()
    other.turn("crm")
    wait_until(lambda: host.calls)
    errors.unblock()
    wait_until(lambda: slow.in_flight() == 0)
    assert world.ids("jobs_queue") == [msg_id], "the error of the first delivery is stale"
    world.expire()
    host.unblock()
    drained(world)
    assert world.ids("jobs_archive") == [msg_id], "the answer counts although its time was over"
    errors.close()
    first.close()


def test_a_hanging_job_loses_its_slot_when_its_time_is_over(world, host, make_pump):
    from datetime import timedelta

    host.block()
    world.put(1)
    pump = make_pump(in_flight_per_app=1, visibility_timeout=timedelta(seconds=0.3))
    pump.turn("crm")
    wait_until(lambda: host.running == 1)
    world.put(1)
    pump.turn("crm")
    wait_until(lambda: len(host.calls) >= 2, what="the slot to be used again")


def test_extend_keeps_the_slot_and_the_job_hidden(world, host, make_pump):
    from datetime import timedelta

    host.block()
    (msg_id,) = world.put(1)
    pump = make_pump(in_flight_per_app=1, visibility_timeout=timedelta(seconds=0.3))
    pump.turn("crm")
    wait_until(lambda: host.running == 1)
    with world.platform.uow() as uow:
        service.extend(uow, app_id="crm", msg_id=msg_id, seconds=60)
    time.sleep(1.5)
    pump.turn("crm")
    time.sleep(0.2)
    assert len(host.calls) == 1
    assert pump.in_flight() == 1


def test_only_jobs_in_flight_can_be_extended(world):
    (msg_id,) = world.put()
    with (
        world.platform.uow() as uow,
        pytest.raises(Exception, match=f"job {msg_id} is not in flight"),
    ):
        service.extend(uow, app_id="crm", msg_id=msg_id, seconds=60)
    for seconds in (0, 3601, True):
        with world.platform.uow() as uow, pytest.raises(Invalid, match="seconds must be 1-3600"):
            service.extend(uow, app_id="crm", msg_id=msg_id, seconds=seconds)


def test_a_cancelled_job_stays_dead_whatever_its_handler_says(world, host, make_pump):
    host.block()
    (msg_id,) = world.put()
    pump = make_pump()
    pump.turn("crm")
    wait_until(lambda: host.calls)
    with world.platform.uow() as uow:
        assert service.cancel(uow, app_id="crm", msg_id=msg_id) is True
    host.unblock()
    wait_until(lambda: pump.in_flight() == 0)
    assert (world.ids("jobs_archive"), world.ids("jobs_dead")) == ([], [msg_id])


def test_a_shutdown_makes_everything_visible_again(world, host, make_pump):
    host.block()
    sent = world.put(30)
    pump = make_pump(in_flight_per_app=4)
    pump.turn("crm")
    wait_until(lambda: host.running == 4)
    pump.close()
    pump.turn("crm")
    pump.finish(0.2)
    assert world.ids("jobs_queue") == sent
    assert world.sql("SELECT count(*) FROM trellis.jobs_queue WHERE vt > now()") == [(0,)]


def test_jobs_that_waited_for_a_slot_go_back_uncounted(world, host, make_pump):
    pump = make_pump(in_flight_per_app=2)
    world.put(100)
    pump.turn("crm")
    drained(world)
    host.block()
    sent = world.put(40)
    pump.turn("crm")
    wait_until(lambda: host.running == 2)
    waiting = world.sql("SELECT count(*) FROM trellis.jobs_queue WHERE read_ct = 1")[0][0]
    assert waiting > 2, "short jobs are claimed ahead"
    wait_until(
        lambda: world.sql("SELECT count(*) FROM trellis.jobs_queue WHERE read_ct = 1") == [(2,)],
        what="the others to go back",
    )
    host.unblock()
    pump.turn("crm")
    drained(world)
    assert set(sent) <= set(world.ids("jobs_archive"))


def test_agent_messages_start_runs_whatever_the_worker_state(world, host, make_pump):
    world.set_desired("crm", "stopped")
    started = []

    def start(uow, assignment):
        if assignment.delivery.body["payload"]["n"] == 1:
            raise Invalid("app has no agent")
        started.append(assignment.delivery.msg_id)
        service.hold(uow, assignment.delivery.msg_id, 500)

    good, bad = world.put(2, route="agent", source="cron")
    make_pump(start_agent_run=start).turn("crm")
    wait_until(lambda: world.ids("jobs_dead") == [bad])
    assert started == [good]
    assert world.sql("SELECT reason FROM trellis.jobs_dead") == [("app has no agent",)]
    assert world.sql("SELECT vt > now() + interval '400 s' FROM trellis.jobs_queue") == [(True,)]
    with world.platform.uow() as uow:
        service.complete(uow, good)
    assert world.ids("jobs_archive") == [good]


def test_without_agents_agent_messages_are_dead(world, host, make_pump):
    world.put(route="agent")
    make_pump().turn("crm")
    drained(world)
    assert world.sql("SELECT reason FROM trellis.jobs_dead") == [("app has no agent",)]


def test_a_database_that_goes_away_for_a_while_loses_nothing(world, host, make_pump):
    """Its connections are cut while jobs run: their ends are written down later, once."""
    host.handler = lambda message, actor: time.sleep(0.05)
    sent = world.put(60)
    outside = create_engine(world.platform.engine.url, poolclass=NullPool)
    pump = make_pump()
    pump.turn("crm")
    for _ in range(3):
        time.sleep(0.1)
        # Neither this nor what looks at the result may meet a cut connection of the pool.
        with outside.connect() as knife:
            knife.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def archived():
        with outside.connect() as reader:
            rows = reader.exec_driver_sql("SELECT msg_id FROM trellis.jobs_archive ORDER BY msg_id")
            return list(rows.scalars())

    def done():
        pump.turn("crm")
        return archived() == sent

    wait_until(done, what="all jobs")
    assert sorted(host.ids()) == sent
