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


@dataclass(slots=True)
class _Entry:
    plan: Plan
    ticked_at: datetime | None = None


class Ticker:
    """A heap of the next fire times of all enabled crons."""

    def __init__(self) -> None:
        self._entries: dict[UUID, _Entry] = {}
        self._heap: list[tuple[datetime, UUID, _Entry]] = []

    def load(self, plans: Iterable[Plan], *, handled: datetime) -> None:
        """Take over the enabled crons; those that did not change keep their place.

        Args:
            plans: all of them.
            handled: the last minute whose ticks are written down.
        """
        before = self._entries
        self._entries = {}
        for plan in plans:
            entry = before.get(plan.cron_id)
            if entry is None or not _same(entry.plan, plan):
                entry = _Entry(plan, plan.last_tick_at)
                self._push(entry, handled)
            self._entries[plan.cron_id] = entry

    def next_due(self) -> datetime | None:
        """Return when the next cron is due; None when none ever is."""
        while self._heap and self._stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, *, now: datetime, handled: datetime) -> list[Tick]:
        """Return the ticks that are due, and put their crons back with their next time.

        Nothing fires while the clock stands before the last handled minute.
        """
        minute = floor_minute(now)
        if minute < handled:
            return []
        ticks: list[Tick] = []
        popped: list[_Entry] = []
        while (due := self.next_due()) is not None and due <= now:
            entry = heapq.heappop(self._heap)[2]
            popped.append(entry)
            ticks.extend(_ticks_of(entry, due=due, now=now, handled=handled))
        for entry in popped:
            self._push(entry, minute)
        return ticks

    def _push(self, entry: _Entry, handled: datetime) -> None:
        due = _next_of(entry, handled)
        if due is not None:
            heapq.heappush(self._heap, (due, entry.plan.cron_id, entry))

    def _stale(self, item: tuple[datetime, UUID, _Entry]) -> bool:
        return self._entries.get(item[1]) is not item[2]


def _same(plan: Plan, other: Plan) -> bool:
    return (plan.schedule, plan.timezone, plan.anchor_at) == (
        other.schedule,
        other.timezone,
        other.anchor_at,
    )


def _ticks_of(entry: _Entry, *, due: datetime, now: datetime, handled: datetime) -> list[Tick]:
    plan = entry.plan
    schedule = parse_schedule(plan.schedule)
    if isinstance(schedule, Interval):
        # Counted from when the tick was due, so that the period does not drift; after an outage
        # from now, so that missed ticks are not made up for.
        entry.ticked_at = due if now - due < schedule.period else now
        return [Tick(plan.cron_id, entry.ticked_at, interval=True)]
    since = max(handled, floor_minute(plan.anchor_at))
    moments = _minutes(schedule, plan.timezone, since, floor_minute(now))
    return [Tick(plan.cron_id, moment) for moment in moments]


@lru_cache(maxsize=1024)
def _minutes(
    schedule: Calendar, timezone: str | None, handled: datetime, now: datetime
) -> tuple[datetime, ...]:
    return tuple(ticks_between(schedule, load_zone(timezone), handled=handled, now=now))


def _next_of(entry: _Entry, handled: datetime) -> datetime | None:
    plan = entry.plan
    try:
        schedule = parse_schedule(plan.schedule)
        if isinstance(schedule, Interval):
            return max(plan.anchor_at, entry.ticked_at or plan.anchor_at) + schedule.period
        return _next_minute(schedule, plan.timezone, max(handled, floor_minute(plan.anchor_at)))
    except ScheduleError as exc:
        log.warning("cron_not_schedulable", cron_id=str(plan.cron_id), reason=str(exc))
        return None


@lru_cache(maxsize=4096)
def _next_minute(schedule: Calendar, timezone: str | None, after: datetime) -> datetime | None:
    return schedule.next_after(after, load_zone(timezone))


__all__ = ["MINUTE", "Plan", "Tick", "Ticker"]
