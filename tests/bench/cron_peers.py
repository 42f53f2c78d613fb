"""Crons of others beside ours: pg_cron and Celery's beat; and whether ours mean what pg_cron's do.

``python -m tests.bench cron``: grammar and matching compared with the real pg_cron.
"""

from __future__ import annotations

import random
import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg2

from app.core.schedule import Calendar, ScheduleError, parse_schedule
from tests.bench import job_peers, pg_cron, stacks
from tests.bench.rounds import SHORT, Rounds
from tests.bench.scratch import Missing

DUE = (1, 1000)
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
# What pg_cron takes and we refuse on purpose: contract part 30, sections 12.1 and 12.3.
STRICTER = ("reversed range", "step in", "is not a number")
GMT = ZoneInfo("GMT")


def lateness(bench: stacks.Bench) -> None:
    """Q7: how late others are when many crons are due in one minute."""
    try:
        with pg_cron.server() as connection:
            for count in DUE:
                _show("pg_cron", count, _pg_cron_late(connection, count))
    except Missing as exc:
        print(f"Q7 without pg_cron: {exc}")
    for count in DUE:
        with ExitStack() as stack:
            peer = job_peers.ready(bench, "celery", stack)
            minute = _before_a_minute()
            with peer.working("beat", count):
                time.sleep(max(0.0, minute + 0.5 - time.time()))
                noted = peer.handled(count)
            _show("celery beat", count, [(at - minute) * 1000 for _, at in noted])


def _show(name: str, count: int, late: list[float]) -> None:
    ordered = sorted(late)
    p99 = ordered[int(len(ordered) * 0.99)] if ordered else 0.0
    p50 = statistics.median(ordered) if ordered else 0.0
    print(f"Q7 {count:6d} due, {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms; ran {len(ordered)}")


def _before_a_minute() -> float:
    """Wait until a minute ends in 15 to 45 seconds; return when the next begins."""
    left = 60 - time.time() % 60
    if not 15 < left < 45:
        time.sleep((left - 45) % 60)
    return (time.time() // 60 + 1) * 60


def _pg_cron_late(connection: psycopg2.extensions.connection, count: int) -> list[float]:
    minute = _before_a_minute()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT cron.schedule('c' || n, '* * * * *', 'SELECT 1') FROM generate_series(1, %s) n",
            (count,),
        )
        time.sleep(max(0.0, minute + 20 - time.time()))
        cursor.execute("SELECT cron.unschedule(jobid) FROM cron.job")
        cursor.execute(
            "SELECT extract(epoch FROM start_time) FROM cron.job_run_details"
            " WHERE status = 'succeeded'"
        )
        found = [(float(row[0]) - minute) * 1000 for row in cursor]
        cursor.execute("DELETE FROM cron.job_run_details")
    return found


def compare(rounds: Rounds) -> None:
    """Compare our schedules with the real pg_cron's: what it takes, and when it runs jobs.

    Raises:
        SystemExit: ours differ where they must not.
    """
    texts, minutes = (1000, 1) if rounds == SHORT else (5000, 3)
    try:
        with pg_cron.server() as connection:
            wrong = _compare_grammar(connection, random.Random(1), texts)
            wrong += _compare_runs(connection, random.Random(2), minutes)
    except Missing as exc:
        print(f"cron without pg_cron: {exc}")
        return
    if wrong:
        raise SystemExit("cron: " + "\n  ".join(["differs from pg_cron", *wrong[:20]]))


def _compare_grammar(
    connection: psycopg2.extensions.connection, pick: random.Random, count: int
) -> list[str]:
    wrong, both, stricter = [], 0, 0
    connection.autocommit = False
    # Versions before 1.5 know no last day of the month.
    last_day = _taken(connection, "0 0 $ * *")
    for _ in range(count):
        text = " ".join(_any_field(pick, *limits) for limits in LIMITS)
        if "$" in text and not last_day:
            continue
        ours, theirs = _refusal(text), _taken(connection, text)
        both += theirs and ours is None
        if ours is None and not theirs:
            wrong.append(f"only we take {text!r}")
        elif ours is not None and theirs:
            stricter += 1
            if not any(words in ours for words in STRICTER):
                wrong.append(f"pg_cron takes {text!r}, we do not: {ours}")
    connection.autocommit = True
    print(
        f"cron grammar: {count} texts, {both} taken by both, {stricter} only by pg_cron as the"
        f" contract has it, {len(wrong)} differ"
    )
    return wrong


def _any_field(pick: random.Random, low: int, high: int) -> str:
    """Return a field, now and then a wrong one."""
    if pick.random() < 0.4:
        return "*"
    items = [_any_item(pick, low, high) for _ in range(pick.choice((1, 1, 1, 2, 3)))]
    return ",".join(items)


def _any_item(pick: random.Random, low: int, high: int) -> str:
    beyond = pick.random() < 0.03
    first, last = sorted(pick.randint(low, high + 3 * beyond) for _ in range(2))
    step = f"/{pick.randint(0 if beyond else 1, high + beyond)}"
    shapes = [f"{first}", f"{first:02d}", f"{first}-{last}", f"{first}-{last}{step}", f"*{step}"]
    if pick.random() < 0.03:
        shapes = [f"{last}-{first}", f"{first}{step}", "", f"{first}-", "$", "**"]
    return pick.choice(shapes)


def _refusal(text: str) -> str | None:
    try:
        parse_schedule(text)
    except ScheduleError as exc:
        return str(exc)
    return None


def _taken(connection: psycopg2.extensions.connection, text: str) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT cron.schedule('x', %s, 'SELECT 1')", (text,))
    except psycopg2.Error:
        return False
    finally:
        connection.rollback()
    return True


def _compare_runs(
    connection: psycopg2.extensions.connection, pick: random.Random, minutes: int
) -> list[str]:
    """Let both decide for the minutes to come; each job must run in ours and in no other."""
    first = datetime.fromtimestamp(_before_a_minute(), UTC)
    span = [first + timedelta(minutes=n) for n in range(minutes)]
    texts = sorted({_near(pick, first) for _ in range(600)})
    with connection.cursor() as cursor:
        for text in texts:
            cursor.execute("SELECT cron.schedule(%s, %s, 'SELECT 1')", (text, text))
        time.sleep(max(0.0, span[-1].timestamp() + 40 - time.time()))
        cursor.execute(
            "SELECT schedule, date_trunc('minute', start_time) FROM cron.job_run_details"
            " JOIN cron.job USING (jobid)"
        )
        theirs = {(text, minute.astimezone(UTC)) for text, minute in cursor}
        cursor.execute("SELECT cron.unschedule(jobid) FROM cron.job")
    ours = {(text, at) for text in texts for at in span if _calendar(text).matches(at, GMT)}
    print(
        f"cron runs: {len(texts)} schedules, {minutes} minutes, {len(ours)} due in ours,"
        f" {len(theirs)} run by pg_cron, {len(ours ^ theirs)} differ"
    )
    return [f"ours only: {one}" for one in ours - theirs] + [
        f"pg_cron only: {one}" for one in theirs - ours
    ]


def _near(pick: random.Random, moment: datetime) -> str:
    """Return a schedule of which many fire in the minutes from a moment on."""
    now = (moment.minute, moment.hour, moment.day, moment.month, moment.isoweekday() % 7)
    fields = []
    for (low, high), value in zip(LIMITS, now, strict=True):
        other = pick.randint(low, high)
        around = f"{max(low, value - 1)}-{min(high, value + 2)}"
        likely = ["*", f"{value}", around, f"{value},{other}", f"*/{pick.choice((1, 2, 3))}"]
        shapes = [*likely, *likely, f"{other}", f"{low}-{high}", f"{low}-{high}/2", f"{other},*/2"]
        fields.append(pick.choice(shapes))
    return " ".join(fields)


def _calendar(text: str) -> Calendar:
    schedule = parse_schedule(text)
    assert isinstance(schedule, Calendar)
    return schedule
