"""Which crons are due, and when to look again. Pure: no clock, no database.

Source: REST contract part 30, sections 12.2 and 13.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

import structlog

from app.core.schedule import (
    MINUTE,
    Calendar,
    Interval,
    ScheduleError,
    floor_minute,
    load_zone,
    parse_schedule,
    ticks_between,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the ticker needs of an enabled cron.

    Attributes:
        anchor_at: creation, enabling or change of the schedule: nothing before it fires.
        last_tick_at: counts for interval schedules only.
    """

    cron_id: UUID
    schedule: str
    timezone: str | None
    anchor_at: datetime
    last_tick_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment for which one job is to be queued."""

    cron_id: UUID
    scheduled_for: datetime
    interval: bool = False


SHARDS = 4


def shard_of(cron_id: UUID) -> int:
    """Return the shard of a cron: what is fired by one transaction at a time."""
    return cron_id.bytes[-1] % SHARDS


@dataclass(slots=True)
class _Entry:
    """A cron with what its ticks are found by.

    Attributes:
        begins: minute of the plan's anchor.
        ticked_at: last tick of an interval schedule.
    """

    plan: Plan
    schedule: Calendar | Interval
    begins: datetime
    ticked_at: datetime | None = None


class Ticker:
    """The next fire times of all enabled crons: a heap of times, and who is due at each."""

    def __init__(self) -> None:
        self._entries: dict[UUID, _Entry] = {}
        self._times: list[datetime] = []
        self._due: dict[datetime, list[_Entry]] = {}
        self._taken: tuple[list[_Entry], datetime] | None = None

    def load(self, plans: Iterable[Plan], *, handled: datetime) -> None:
        """Take over the enabled crons; those that did not change keep their place.

        Args:
            plans: all of them.
            handled: the last minute whose ticks are written down.
        """
        self._put_back()
        before = self._entries
        self._entries = {}
        for plan in plans:
            entry = before.get(plan.cron_id)
            if entry is None or not _same(entry.plan, plan):
                entry = _entry(plan)
                if entry is None:
                    continue
                self._push(entry, handled)
            self._entries[plan.cron_id] = entry

    def next_due(self) -> datetime | None:
        """Return when the next cron is due; None when none ever is."""
        self._put_back()
        while self._times and not any(map(self._lives, self._due[self._times[0]])):
            del self._due[heapq.heappop(self._times)]
        return self._times[0] if self._times else None

    def take(self, *, now: datetime, handled: datetime) -> list[Tick]:
        """Return the ticks that are due.

        Nothing fires while the clock stands before the last handled minute.
        """
        minute = floor_minute(now)
        if minute < handled:
            return []
        self._put_back()
        ticks: list[Tick] = []
        taken: list[_Entry] = []
        while self._times and (due := self._times[0]) <= now:
            heapq.heappop(self._times)
            for entry in filter(self._lives, self._due.pop(due)):
                taken.append(entry)
                ticks.extend(_ticks_of(entry, due=due, now=now, minute=minute, handled=handled))
        self._taken = taken, minute
        return ticks

    def _put_back(self) -> None:
        """Note when those are due next whose ticks were taken; not at once, for ticks are urgent."""
        if self._taken is None:
            return
        (taken, minute), self._taken = self._taken, None
        for entry in taken:
            self._push(entry, minute)

    def _push(self, entry: _Entry, handled: datetime) -> None:
        due = _next_of(entry, handled)
        if due is None:
            return
        if due not in self._due:
            self._due[due] = []
            heapq.heappush(self._times, due)
        self._due[due].append(entry)

    def _lives(self, entry: _Entry) -> bool:
        return self._entries.get(entry.plan.cron_id) is entry


def _entry(plan: Plan) -> _Entry | None:
    try:
        schedule = parse_schedule(plan.schedule)
    except ScheduleError as exc:
        _report(plan, exc)
        return None
    return _Entry(plan, schedule, floor_minute(plan.anchor_at), plan.last_tick_at)


def _same(plan: Plan, other: Plan) -> bool:
    return (plan.schedule, plan.timezone, plan.anchor_at) == (
        other.schedule,
        other.timezone,
        other.anchor_at,
    )


def _ticks_of(
    entry: _Entry, *, due: datetime, now: datetime, minute: datetime, handled: datetime
) -> list[Tick]:
    plan, schedule = entry.plan, entry.schedule
    if isinstance(schedule, Interval):
        # Counted from when the tick was due, so that the period does not drift; after an outage
        # from now, so that missed ticks are not made up for.
        entry.ticked_at = due if now - due < schedule.period else now
        return [Tick(plan.cron_id, entry.ticked_at, interval=True)]
    since = max(handled, entry.begins)
    moments = _minutes(plan.schedule, plan.timezone, since, minute)
    return [Tick(plan.cron_id, moment) for moment in moments]


# By the text of the schedule, whose hash costs nothing.
@lru_cache(maxsize=1024)
def _minutes(
    schedule: str, timezone: str | None, handled: datetime, now: datetime
) -> tuple[datetime, ...]:
    calendar = parse_schedule(schedule)
    assert isinstance(calendar, Calendar)  # noqa: S101 -- the callers' intervals have no minutes
    return tuple(ticks_between(calendar, load_zone(timezone), handled=handled, now=now))


def _next_of(entry: _Entry, handled: datetime) -> datetime | None:
    plan, schedule = entry.plan, entry.schedule
    if isinstance(schedule, Interval):
        return max(plan.anchor_at, entry.ticked_at or plan.anchor_at) + schedule.period
    try:
        return _next_minute(plan.schedule, plan.timezone, max(handled, entry.begins))
    except ScheduleError as exc:
        _report(plan, exc)
        return None


@lru_cache(maxsize=4096)
def _next_minute(schedule: str, timezone: str | None, after: datetime) -> datetime | None:
    calendar = parse_schedule(schedule)
    assert isinstance(calendar, Calendar)  # noqa: S101 -- as above
    return calendar.next_after(after, load_zone(timezone))


def _report(plan: Plan, exc: ScheduleError) -> None:
    log.warning("cron_not_schedulable", cron_id=str(plan.cron_id), reason=str(exc))


__all__ = ["MINUTE", "SHARDS", "Plan", "Tick", "Ticker", "shard_of"]
