"""What the queue promises, on real Postgres; concurrency with two connections."""

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from app.jobs.repository import QUEUE
from app.pgqueue.types import Failure, Outgoing, Receipt, Release

LANE = {"app_id": "crm", "route": "worker"}
OWNER = "00000000-0000-0000-0000-0000000000aa"


@pytest.fixture
def engine(database_url):
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session


@pytest.fixture
def other(engine):
    with Session(engine) as session:
        yield session


def message(n=0, *, app_id="crm", route="worker", **options):
    values = {
        "app_id": app_id,
        "route": route,
        "user_id": OWNER,
        "source": "api",
        "payload": f'{{"n": {n}}}',
        "max_attempts": "1",
    }
    return Outgoing(values, **options)


def send(session, *messages):
    ids = QUEUE.send(session, messages)
    session.commit()
    return ids


def claim(session, quantity=10, vt_s=60, lane=LANE):
    found = QUEUE.claim(session, lane, quantity=quantity, vt_s=vt_s)
    session.commit()
    return found


def ids(deliveries):
    return [delivery.msg_id for delivery in deliveries]


def rows(session, table, columns="*"):
    return session.execute(text(f"SELECT {columns} FROM trellis.{table} ORDER BY msg_id")).all()


def expire(session):
    session.execute(
        text("UPDATE trellis.jobs_queue SET vt = now() - interval '1 s' WHERE NOT fresh")
    )
    session.commit()


def test_ids_increase_in_the_given_order_and_are_never_reused(session):
    first = send(session, *[message(n) for n in range(50)])
    assert first == sorted(first)
    assert [d.body["payload"]["n"] for d in claim(session, 50)] == list(range(50))
    QUEUE.send(session, [message()])
    session.rollback()
    QUEUE.delete(session, first)
    session.commit()
    assert send(session, message())[0] > first[-1] + 1


def test_a_message_is_invisible_until_its_commit(session, other):
    QUEUE.send(session, [message()])
    assert claim(other) == []
    session.commit()
    assert len(claim(other)) == 1


def test_a_claim_hides_counts_and_returns_the_oldest_first(session):
    sent = send(session, message(1), message(2), message(3))
    found = claim(session, 2)
    assert ids(found) == sent[:2]
    assert [d.read_ct for d in found] == [1, 1]
    assert ids(claim(session)) == sent[2:]
    assert claim(session) == []


def test_higher_priority_comes_first(session):
    low, normal, high = send(session, message(priority=-10), message(), message(priority=10))
    assert ids(claim(session, 1)) == [high]
    assert ids(claim(session, 2)) == [normal, low]


def test_a_claim_that_rolls_back_never_happened(session):
    sent = send(session, message())
    QUEUE.claim(session, LANE, quantity=1, vt_s=60)
    session.rollback()
    again = claim(session)
    assert ids(again) == sent
    assert again[0].read_ct == 1


def test_two_claims_at_once_share_the_messages(session, other):
    sent = send(session, *[message(n) for n in range(6)])
    mine = QUEUE.claim(session, LANE, quantity=3, vt_s=60)
    theirs = QUEUE.claim(other, LANE, quantity=6, vt_s=60)
    assert ids(mine) == sent[:3]
    assert ids(theirs) == sent[3:]


def test_lanes_are_apart(session):
    send(session, message(app_id="hr"), message(route="agent"))
    assert claim(session) == []
    assert len(claim(session, lane={"app_id": "hr", "route": "worker"})) == 1
    assert len(claim(session, lane={"app_id": "crm", "route": "agent"})) == 1


def test_after_its_timeout_a_message_returns_to_its_old_place(session):
    sent = send(session, message(1), message(2))
    claim(session, 1)
    expire(session)
    again = claim(session, 2)
    assert ids(again) == sent
    assert [d.read_ct for d in again] == [2, 1]


def test_many_expired_messages_are_all_delivered_again(session):
    sent = send(session, *[message(n) for n in range(700)])
    claim(session, 700)
    expire(session)
    got = []
    while found := claim(session, 100):
        got += ids(found)
    assert sorted(got) == sent


def test_a_delayed_message_waits(session):
    delayed, now = send(session, message(1, delay_s=30), message(2))
    assert ids(claim(session)) == [now]
    expire(session)
    assert delayed in ids(claim(session))


@pytest.mark.parametrize("seconds", [0, -5])
def test_set_vt_to_now_makes_visible_and_keeps_the_count(session, seconds):
    (msg_id,) = send(session, message())
    claim(session)
    assert QUEUE.set_vt(session, msg_id, seconds) is not None
    session.commit()
    assert claim(session)[0].read_ct == 2


def test_set_vt_is_fenced_and_tells_of_missing_messages(session):
    (msg_id,) = send(session, message())
    claim(session)
    assert QUEUE.set_vt(session, msg_id, 60, read_ct=9) is None
    assert QUEUE.set_vt(session, msg_id, 60, read_ct=1) is not None
    assert QUEUE.set_vt(session, msg_id + 1, 60) is None


def test_archive_moves_whatever_the_timeout_and_keeps_the_facts(session):
    (msg_id,) = send(session, message(7))
    before = claim(session)[0]
    assert QUEUE.archive(session, [msg_id, msg_id + 99]) == [msg_id]
    assert QUEUE.archive(session, [msg_id]) == []
    row = rows(session, "jobs_archive")[0]
    assert (row.msg_id, row.read_ct, row.enqueued_at, row.payload) == (
        msg_id,
        1,
        before.enqueued_at,
        {"n": 7},
    )
    assert row.archived_at is not None
    assert rows(session, "jobs_queue") == []


def test_delete_tells_what_it_removed(session):
    first, second = send(session, message(), message())
    assert QUEUE.delete(session, [first, second, second + 1]) == [first, second]
    assert QUEUE.delete(session, [first]) == []


def test_dead_letters_are_fenced_by_the_delivery(session):
    (msg_id,) = send(session, message())
    stale = claim(session)[0].receipt
    expire(session)
    latest = claim(session)[0].receipt
    assert QUEUE.dead_letter(session, [Failure(stale, "handler error: x", "x")]) == []
    assert QUEUE.dead_letter(session, [Failure(latest, "handler error: y", "y")]) == [msg_id]
    row = rows(session, "jobs_dead")[0]
    assert (row.reason, row.last_error, row.read_ct, row.attempts) == (
        "handler error: y",
        "y",
        2,
        1,
    )
    assert row.failed_at is not None


def test_an_undelivered_failure_is_not_counted(session):
    send(session, message())
    receipt = claim(session)[0].receipt
    QUEUE.dead_letter(session, [Failure(receipt, "no enabled owner", uncount=True)])
    assert rows(session, "jobs_dead", "read_ct, attempts") == [(0, 0)]


def test_release_makes_visible_now_or_later(session):
    send(session, message(1), message(2), message(3))
    a, b, c = (d.receipt for d in claim(session))
    QUEUE.release(
        session, [Release(a), Release(b, delay_s=60, error="boom"), Release(Receipt(c.msg_id, 9))]
    )
    session.commit()
    assert ids(claim(session)) == [a.msg_id]
    state = {r.msg_id: r for r in rows(session, "jobs_queue")}
    assert (state[b.msg_id].attempts, state[b.msg_id].last_error) == (1, "boom")
    assert (state[a.msg_id].attempts, state[a.msg_id].read_ct) == (0, 2)


def test_an_uncounted_release_forgets_the_delivery(session):
    send(session, message())
    QUEUE.release(session, [Release(claim(session)[0].receipt, uncount=True)])
    session.commit()
    assert claim(session)[0].read_ct == 1


def test_revive_puts_dead_letters_back_with_their_id(session):
    first, second = send(session, message(1), message(2))
    QUEUE.dead_letter(session, [Failure(d.receipt, "r") for d in claim(session)])
    assert QUEUE.revive(session, "hr") == []
    assert QUEUE.revive(session, "crm", [first]) == [first]
    assert QUEUE.revive(session, "crm") == [second]
    session.commit()
    again = claim(session)
    assert ids(again) == [first, second]
    assert {(d.read_ct, d.attempts) for d in again} == {(1, 0)}
    assert send(session, message())[0] > second


def test_visible_lanes_are_found_without_reading_the_queue(session):
    send(session, *[message(n, app_id=f"app_{n % 7}") for n in range(200)])
    send(
        session,
        message(app_id="late", delay_s=60),
        message(app_id="busy"),
        message(app_id="busy", route="agent"),
    )
    claim(session, lane={"app_id": "busy", "route": "worker"})
    lanes = set(QUEUE.visible_lanes(session))
    assert lanes == {(f"app_{n}", "worker") for n in range(7)} | {("busy", "agent")}
    expire(session)
    assert set(QUEUE.visible_lanes(session)) - lanes == {("late", "worker"), ("busy", "worker")}


def test_deadlines_tell_delivery_and_seconds_left(session):
    (msg_id,) = send(session, message())
    claim(session, vt_s=60)
    found = QUEUE.deadlines(session, [msg_id, msg_id + 1])
    assert set(found) == {msg_id}
    read_ct, left = found[msg_id]
    assert read_ct == 1
    assert 55 < left <= 60


def test_forget_empties_one_app_everywhere(session):
    for app_id in ("crm", "hr"):
        lane = {"app_id": app_id, "route": "worker"}
        send(session, *[message(app_id=app_id) for _ in range(3)])
        a, b = claim(session, 2, lane=lane)
        QUEUE.archive(session, [a.msg_id])
        QUEUE.dead_letter(session, [Failure(b.receipt, "r")])
    QUEUE.forget(session, "crm")
    for table in ("jobs_queue", "jobs_archive", "jobs_dead"):
        assert [r.app_id for r in rows(session, table)] == ["hr"]


def test_prune_deletes_only_what_is_old(session):
    send(session, *[message() for _ in range(4)])
    a, b, c, d = claim(session)
    QUEUE.archive(session, [a.msg_id, b.msg_id])
    QUEUE.dead_letter(session, [Failure(c.receipt, "r"), Failure(d.receipt, "r")])
    session.execute(
        text(
            f"UPDATE trellis.jobs_archive SET archived_at = now() - interval '40 d' WHERE msg_id = {a.msg_id}"
        )
    )
    session.execute(
        text(
            f"UPDATE trellis.jobs_dead SET failed_at = now() - interval '40 d' WHERE msg_id = {c.msg_id}"
        )
    )
    assert QUEUE.prune(session, archive_s=None, dead_s=None) == 0
    assert QUEUE.prune(session, archive_s=30 * 86400, dead_s=30 * 86400) == 2
    assert [r.msg_id for r in rows(session, "jobs_archive")] == [b.msg_id]
    assert [r.msg_id for r in rows(session, "jobs_dead")] == [d.msg_id]


def test_metrics(session):
    assert QUEUE.metrics(session).oldest_msg_age_sec is None
    sent = send(session, message(), message(), message(delay_s=60))
    claim(session, 1)
    metrics = QUEUE.metrics(session)
    assert (metrics.queue_length, metrics.queue_visible_length) == (3, 1)
    assert metrics.total_messages == sent[-1]
    assert metrics.oldest_msg_age_sec >= metrics.newest_msg_age_sec >= 0


def test_a_claim_reads_as_much_of_a_long_queue_as_it_takes(session):
    """Whatever waits behind them: other apps, delayed and hidden messages, a long queue."""
    session.execute(
        text("""
        INSERT INTO trellis.jobs_queue (app_id, source, payload, fresh, vt)
        SELECT CASE WHEN n % 2 = 0 THEN 'crm' ELSE 'hr' END, 'api', '{}', n % 5 <> 0,
            now() + CASE WHEN n % 5 = 0 THEN interval '1 h' ELSE interval '0' END
        FROM generate_series(1, 40000) n""")
    )
    session.commit()
    session.execute(text("ANALYZE trellis.jobs_queue"))
    session.commit()
    session.execute(text("SET LOCAL enable_seqscan = on"))
    before = _blocks(session)
    QUEUE.claim(session, LANE, quantity=8, vt_s=60)
    session.commit()
    assert _blocks(session) - before < 400


def _blocks(session):
    session.execute(text("SELECT pg_stat_force_next_flush()"))
    session.commit()
    found = session.execute(
        text(
            "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
            " FROM pg_statio_user_tables WHERE relname = 'jobs_queue'"
        )
    ).scalar_one()
    session.commit()
    return found
