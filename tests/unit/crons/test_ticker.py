from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.crons.ticker import Plan, Tick, Ticker

MINUTE = timedelta(minutes=1)


def at(text):
    return datetime.fromisoformat(f"2027-05-05T{text}").replace(tzinfo=UTC)


def plan(n, schedule, *, timezone=None, anchor="00:00:00", last=None):
    return Plan(UUID(int=n), schedule, timezone, at(anchor), None if last is None else at(last))


def loaded(*plans, handled="11:59:00"):
    ticker = Ticker()
    ticker.load(plans, handled=at(handled))
    return ticker


def take(ticker, now, handled):
    return [
        (t.cron_id.int, f"{t.scheduled_for:%H:%M:%S}")
        for t in ticker.take(now=at(now), handled=at(handled))
    ]


def test_minute_schedules_fire_once_a_minute():
    ticker = loaded(plan(1, "* * * * *"), plan(2, "0 12 * * *"), plan(3, "5 12 * * *"))
    assert ticker.next_due() == at("12:00:00")
    assert sorted(take(ticker, "12:00:00.010", "11:59:00")) == [(1, "12:00:00"), (2, "12:00:00")]
    assert take(ticker, "12:00:30", "12:00:00") == []
    assert take(ticker, "12:01:00", "12:00:00") == [(1, "12:01:00")]


def test_intervals_count_from_the_anchor_and_then_from_the_tick_before():
    ticker = loaded(plan(1, "10 seconds", anchor="12:00:03"), handled="12:00:00")
    assert ticker.next_due() == at("12:00:13")
    assert take(ticker, "12:00:12.9", "12:00:00") == []
    assert take(ticker, "12:00:13.2", "12:00:00") == [(1, "12:00:13")]
    assert ticker.next_due() == at("12:00:23")


def test_missed_intervals_are_not_made_up_for():
    ticker = loaded(plan(1, "10 seconds", last="11:00:00"), handled="12:00:00")
    assert take(ticker, "12:00:05", "12:00:00") == [(1, "12:00:05")]
    assert ticker.next_due() == at("12:00:15")


@pytest.mark.parametrize(
    ("minutes", "every", "fixed"), [(1, 1, 1), (5, 5, 5), (6, 1, 6), (180, 1, 180), (181, 1, 1)]
)
def test_gap_rules(minutes, every, fixed):
    ticker = loaded(plan(1, "* * * * *"), plan(2, "0-59 0-23 * * *"), handled="12:00:00")
    now = at("12:00:20") + minutes * MINUTE
    ticks = ticker.take(now=now, handled=at("12:00:00"))
    assert sum(t.cron_id.int == 1 for t in ticks) == every
    assert sum(t.cron_id.int == 2 for t in ticks) == fixed


def test_a_clock_that_moved_back_fires_nothing_until_it_has_caught_up():
    ticker = loaded(plan(1, "* * * * *"), handled="12:10:00")
    assert take(ticker, "12:05:00", "12:10:00") == []
    assert take(ticker, "12:10:59", "12:10:00") == []
    assert take(ticker, "12:11:00", "12:10:00") == [(1, "12:11:00")]


def test_nothing_before_the_anchor_is_caught_up():
    ticker = loaded(plan(1, "* * * * *", anchor="12:03:30"), handled="12:00:00")
    assert take(ticker, "12:05:00", "12:00:00") == [(1, "12:04:00"), (1, "12:05:00")]


def test_a_reload_keeps_what_did_not_change_and_forgets_what_went():
    unchanged = plan(1, "10 seconds", anchor="12:00:00")
    ticker = loaded(unchanged, plan(2, "* * * * *"), handled="12:00:00")
    take(ticker, "12:00:10", "12:00:00")
    ticker.load([unchanged, plan(3, "5 seconds", anchor="12:00:11")], handled=at("12:00:00"))
    assert ticker.next_due() == at("12:00:16")
    assert take(ticker, "12:01:30", "12:00:00") == [(3, "12:01:30"), (1, "12:01:30")]


def test_a_changed_schedule_starts_afresh():
    ticker = loaded(plan(1, "10 seconds", anchor="12:00:00"), handled="12:00:00")
    ticker.load([plan(1, "30 seconds", anchor="12:00:05")], handled=at("12:00:00"))
    assert ticker.next_due() == at("12:00:35")


def test_zones():
    ticker = loaded(plan(1, "0 14 * * *", timezone="Europe/Berlin"))
    assert ticker.next_due() == at("12:00:00")


def test_what_cannot_be_scheduled_disturbs_nobody():
    ticker = loaded(
        plan(1, "nonsense"),
        plan(2, "* * * * *", timezone="Gone/Zone"),
        plan(3, "0 0 31 2 *"),
        plan(4, "* * * * *"),
    )
    assert take(ticker, "12:00:00", "11:59:00") == [(4, "12:00:00")]


def test_ten_thousand_due_at_once():
    ticker = Ticker()
    ticker.load((plan(n, "0 12 * * *") for n in range(10_000)), handled=at("11:59:00"))
    ticks = ticker.take(now=at("12:00:00"), handled=at("11:59:00"))
    assert len(set(ticks)) == 10_000
    assert Tick(UUID(int=7), at("12:00:00")) in ticks
