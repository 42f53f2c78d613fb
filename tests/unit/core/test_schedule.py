import itertools
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.schedule import (
    Calendar,
    Interval,
    ScheduleError,
    floor_minute,
    load_zone,
    parse_schedule,
    ticks_between,
)

GMT = ZoneInfo("GMT")
BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(schedule, zone, after, count):
    found, moment = [], utc(after)
    for _ in range(count):
        moment = parse_schedule(schedule).next_after(moment, zone)
        found.append(f"{moment:%Y-%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "  0 9 * * 1-5\t",
        "*/5 0-23/2 1,15,31 01-12 0,7",
        "0\t0 $ * *",
        "007 00 1 1 7",
        "0 0 31 2 *",
        "1,*/2 * * * *",
        "*,5 * * * *",
        "1-1/59 * * * *",
        "* * * * 5-7",
    ],
)
def test_accepts(text):
    assert isinstance(parse_schedule(text), Calendar)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1 seconds", 1), (" 59  seconds ", 59), ("010 seconds", 10)]
)
def test_accepts_intervals(text, seconds):
    assert parse_schedule(text) == Interval(seconds)


FIVE = "expected five fields (minute hour day month weekday) or 'N seconds'"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", FIVE),
        ("* * * *", FIVE),
        ("* * * * * *", FIVE),
        ("@daily", FIVE),
        ("1 second", FIVE),
        ("10 Seconds", FIVE),
        ("10 seconds x", FIVE),
        ("* *\n* * *", FIVE),
        ("* * * * *\n", FIVE),
        ("0 seconds", "seconds must be 1-59"),
        ("60 seconds", "seconds must be 1-59"),
        ("60 * * * *", "minute: '60' is outside 0-59"),
        ("* 24 * * *", "hour: '24' is outside 0-23"),
        ("* * 0 * *", "day of month: '0' is outside 1-31"),
        ("* * * 13 *", "month: '13' is outside 1-12"),
        ("* * * * 8", "day of week: '8' is outside 0-7"),
        ("* * * * MON", "day of week: 'MON' is not a number, a range or '*'"),
        ("* * * JAN *", "month: 'JAN' is not a number, a range or '*'"),
        ("? * * * *", "minute: '?' is not a number, a range or '*'"),
        ("* * L * *", "day of month: 'L' is not a number, a range or '*'"),
        ("* * 1W * *", "day of month: '1W' is not a number, a range or '*'"),
        ("* * * * 1#2", "day of week: '1#2' is not a number, a range or '*'"),
        ("5/10 * * * *", "minute: step without range in '5/10'"),
        ("5-1 * * * *", "minute: reversed range '5-1'"),
        ("*/0 * * * *", "minute: step in '*/0' must be 1-59"),
        ("*/60 * * * *", "minute: step in '*/60' must be 1-59"),
        ("* */24 * * *", "hour: step in '*/24' must be 1-23"),
        ("* * * * */8", "day of week: step in '*/8' must be 1-7"),
        ("1,,2 * * * *", "minute: empty list item"),
        (",1 * * * *", "minute: empty list item"),
        ("* * 1,$ * *", "day of month: '$' is not a number, a range or '*'"),
        ("$ * * * *", "minute: '$' is not a number, a range or '*'"),
        ("-1 * * * *", "minute: '-1' is not a number, a range or '*'"),
        ("** * * * *", "minute: '**' is not a number, a range or '*'"),
        ("١ * * * *", "minute: '١' is not a number, a range or '*'"),
        ("1 * * * *" + " " * 200, "longer than 200 characters"),
    ],
)
def test_refuses_with_a_detail(text, detail):
    with pytest.raises(ScheduleError) as caught:
        parse_schedule(text)
    assert str(caught.value) == detail


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("0 0 $ * *", "2028-02-01", ["2028-02-29 00:00", "2028-03-31 00:00", "2028-04-30 00:00"]),
        ("0 0 $ * *", "2027-02-01", ["2027-02-28 00:00", "2027-03-31 00:00"]),
        ("0 0 $ 2 *", "2095-03-01", ["2096-02-29 00:00", "2097-02-28 00:00"]),
        # `$` is not starred: the last day or a Monday.
        ("0 0 $ * 1", "2027-02-20", ["2027-02-22 00:00", "2027-02-28 00:00", "2027-03-01 00:00"]),
        # `*/2` is starred: odd days that are Mondays.
        ("0 0 */2 * 1", "2027-03-01", ["2027-03-15 00:00", "2027-03-29 00:00", "2027-04-05 00:00"]),
        # `1-31` is not: every day.
        ("0 0 1-31 * 1", "2027-03-01", ["2027-03-02 00:00", "2027-03-03 00:00"]),
        # neither starred: the 13th or a Friday.
        ("0 0 13 * 5", "2027-03-01", ["2027-03-05 00:00", "2027-03-12 00:00", "2027-03-13 00:00"]),
        # `1,*/2` is not starred.
        ("0 0 1,*/31 * 3", "2027-03-01", ["2027-03-03 00:00", "2027-03-10 00:00"]),
        ("0 0 * * 7", "2027-03-01", ["2027-03-07 00:00", "2027-03-14 00:00"]),
        ("0 0 29 2 *", "2027-01-01", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 */7", "2028-03-01", ["2032-02-29 00:00", "2060-02-29 00:00"]),
        ("59 23 31 12 *", "2027-12-31T23:59", ["2028-12-31 23:59"]),
        ("*/20 5 * * *", "2027-03-01T05:20:59", ["2027-03-01 05:40", "2027-03-02 05:00"]),
    ],
)
def test_next_fires(schedule, after, expected):
    assert fires(schedule, GMT, after, len(expected)) == expected


def test_a_day_that_never_comes_has_no_next_fire():
    assert parse_schedule("0 0 31 2 *").next_after(utc("2027-01-01"), GMT) is None


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        # Berlin springs forward on 2027-03-28: 02:30 does not exist, so that day is skipped.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2027-03-27T02:00",
            ["2027-03-29 00:30", "2027-03-30 00:30"],
        ),
        # It falls back on 2027-10-31: 02:30 happens twice.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2027-10-30T12:00",
            ["2027-10-31 00:30", "2027-10-31 01:30", "2027-11-01 01:30"],
        ),
        (
            "0 9 * * *",
            "America/New_York",
            "2027-03-13T15:00",
            ["2027-03-14 13:00", "2027-03-15 13:00"],
        ),
        (
            "0 9 * * *",
            "America/New_York",
            "2027-11-06T14:00",
            ["2027-11-07 14:00", "2027-11-08 14:00"],
        ),
        # Half an hour: Lord Howe falls back on 2027-04-04 at 02:00 to 01:30.
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2027-04-03T12:00",
            ["2027-04-03 14:45", "2027-04-03 15:15", "2027-04-04 15:15"],
        ),
        # Midnight itself is skipped in Beirut on 2027-03-28.
        ("0 0 * * *", "Asia/Beirut", "2027-03-26T23:00", ["2027-03-28 21:00", "2027-03-29 21:00"]),
        ("0 0 * * *", "Asia/Kathmandu", "2027-01-01", ["2027-01-01 18:15"]),
        ("0 12 * * *", "Pacific/Kiritimati", "2027-01-01", ["2027-01-01 22:00"]),
    ],
)
def test_zones_and_daylight_saving(schedule, zone, after, expected):
    assert fires(schedule, load_zone(zone), after, len(expected)) == expected


def test_wildcard_minutes_fire_every_real_minute_through_a_change():
    for day in ("2027-03-28", "2027-10-31"):
        found = fires("* * * * *", BERLIN, f"{day}T00:00", 180)
        assert found[-1] == f"{day} 03:00"
        assert len(set(found)) == 180


items = st.sampled_from(["*", "0", "30", "*/7", "15,45", "3-20/4"])
hours = st.sampled_from(["*", "2", "0", "23", "1-3", "*/5"])
days = st.sampled_from(["*", "$", "28", "*/2", "1-31"])
weekdays = st.sampled_from(["*", "0", "1-5", "*/3"])
zones = st.sampled_from(
    ["GMT", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut"]
)


@settings(max_examples=60)
@given(
    items,
    hours,
    days,
    weekdays,
    zones,
    st.datetimes(datetime(2027, 3, 1), datetime(2027, 11, 30), timezones=st.just(UTC)),
)
def test_the_next_fire_is_the_first_matching_minute(minute, hour, day, weekday, name, moment):
    schedule, zone = parse_schedule(f"{minute} {hour} {day} * {weekday}"), ZoneInfo(name)
    found = schedule.next_after(moment, zone)
    probe = floor_minute(moment) + MINUTE
    for _ in range(3 * 24 * 60):
        if schedule.matches(probe, zone):
            assert found == probe
            return
        probe += MINUTE
    assert found is None or found >= probe


@pytest.mark.parametrize(
    ("gap", "schedule", "expected"),
    [
        (0, "* * * * *", 0),
        (-90, "* * * * *", 0),
        (1, "* * * * *", 1),
        (5, "* * * * *", 5),
        (6, "* * * * *", 1),
        (180, "* * * * *", 1),
        (181, "* * * * *", 1),
        (6, "0-59 0-23 * * *", 6),
        (180, "0-59 0-23 * * *", 180),
        (181, "0-59 0-23 * * *", 1),
        (6, "0-59 * * * *", 1),
        (60, "7 12 * * *", 1),
        (60, "7 * * * *", 0),
        (5, "58 * * * *", 1),
    ],
)
def test_gap_rules(gap, schedule, expected):
    handled = utc("2027-05-05T11:57")
    ticks = ticks_between(
        parse_schedule(schedule), GMT, handled=handled, now=handled + gap * MINUTE
    )
    assert len(ticks) == expected
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    "name",
    ["Mars/Olympus", "+02:00", "CEST", "europe/berlin", "", "localtime", "../etc/passwd", "UTC+2"],
)
def test_unknown_zones(name):
    with pytest.raises(ScheduleError) as caught:
        load_zone(name)
    assert str(caught.value) == f"unknown timezone '{name}'"


def test_no_zone_is_gmt():
    assert load_zone(None).key == "GMT"


def a_field(pick, low, high):
    """Return a field as anybody might write it."""
    # Two different ones: the other implementation reads ``5-5/2`` as ``5/2``, which we refuse.
    first, last = sorted(pick.sample(range(low, high + 1), 2))
    step = pick.randint(1, high)
    shapes = [f"{first}", f"{first}-{last}", f"{first}-{last}/{step}", f"*/{step}", "*", "*"]
    return ",".join(pick.choices(shapes, k=pick.choice((1, 1, 1, 2, 3))))


def a_schedule(pick):
    fields = [a_field(pick, *limits) for limits in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))]
    if pick.random() < 0.15:
        fields[2] = "$"
    return " ".join(fields)


def local_fires(schedule, begin, end):
    """Give the local times another implementation fires at; it spells the last day ``L``."""
    fires = CronSim(schedule.replace("$", "L"), begin)
    return itertools.takewhile(lambda at: at < end, fires)


@pytest.mark.parametrize(
    ("zone", "first", "days"),
    [
        ("GMT", "2027-12-20", 400),
        ("GMT", "2095-12-20", 500),
        ("Europe/Berlin", "2027-03-27", 3),
        ("Asia/Beirut", "2027-03-27", 3),
        ("Australia/Lord_Howe", "2027-04-03", 3),
        ("America/New_York", "2027-11-06", 3),
    ],
)
def test_an_independent_implementation_agrees(zone, first, days):
    pick, where = random.Random(f"{zone}{first}"), ZoneInfo(zone)
    begin = datetime.fromisoformat(first)
    end = begin + timedelta(days=days)
    most = 200 if zone == "GMT" else None
    for _ in range(25):
        text = a_schedule(pick)
        expected = {
            real
            for local in itertools.islice(local_fires(text, begin - MINUTE, end), most)
            for fold in (0, 1)
            for real in [local.replace(tzinfo=where, fold=fold).astimezone(UTC)]
            if real.astimezone(where).replace(tzinfo=None) == local
        }
        moment, found = begin.replace(tzinfo=where).astimezone(UTC) - MINUTE, []
        while len(found) < len(expected):
            moment = parse_schedule(text).next_after(moment, where)
            found.append(moment)
        assert found == sorted(expected), text
