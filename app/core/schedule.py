"""Schedules of crons: their grammar and the moments they fire at. Pure, no clock.

Source: REST contract part 30, sections 12.1 and 12.2.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

MAX_LENGTH = 200
MINUTE = timedelta(minutes=1)
CATCH_UP_ALL = 5
CATCH_UP_FIXED = 180
# Weekday and leap day meet again within 40 years (2072 to 2112 skips the non-leap year 2100).
HORIZON_YEARS = 41
BLANKS = " \t"
INTERVAL = re.compile(r"([0-9]+)[ \t]+seconds")
ITEM = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?")
# Files of the zone directory that name no zone of the tz database.
NOT_ZONES = frozenset({"localtime", "Factory", "posixrules"})


class ScheduleError(ValueError):
    """A text is not a schedule; the message says which part is wrong and why."""


@dataclass(frozen=True, slots=True)
class Interval:
    """``N seconds``, counted from the previous tick.

    Attributes:
        seconds: 1 to 59.
    """

    seconds: int

    @property
    def period(self) -> timedelta:
        """Time from one tick to the next."""
        return timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a schedule: what it allows.

    Attributes:
        values: bit ``n`` is set when the value ``n`` matches.
        starred: its text begins with ``*``, which decides the day rule and catching up.
    """

    values: int
    starred: bool

    def __contains__(self, value: int) -> bool:
        return bool(self.values >> value & 1)

    def first_from(self, value: int) -> int | None:
        """Return the least allowed value that is at least ``value``."""
        rest = self.values >> value
        return None if rest == 0 else value + (rest & -rest).bit_length() - 1


@dataclass(frozen=True, slots=True)
class Calendar:
    """Five fields matched against the local wall clock of each real minute.

    Attributes:
        last_day: the day field is ``$``, the last day of the local month.
    """

    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field
    last_day: bool = False

    @property
    def fixed_time(self) -> bool:
        """Whether neither minute nor hour is starred, so that no missed minute may be lost."""
        return not (self.minute.starred or self.hour.starred)

    def on_day(self, day: date) -> bool:
        """Tell whether some minute of a local date may match."""
        if day.month not in self.month:
            return False
        by_date = _is_last(day) if self.last_day else day.day in self.day
        by_week = day.isoweekday() % 7 in self.weekday
        if self.day.starred or self.weekday.starred:
            return by_date and by_week
        return by_date or by_week

    def matches(self, minute: datetime, zone: ZoneInfo) -> bool:
        """Tell whether a real minute (aware) matches in a zone."""
        local = minute.astimezone(zone)
        return local.minute in self.minute and local.hour in self.hour and self.on_day(local.date())

    def next_after(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """Return the first matching real minute strictly after a moment, in UTC.

        Returns:
            None when no minute of the next decades matches, as with ``0 0 31 2 *``.
        """
        start = floor_minute(moment) + MINUTE
        for day in self._days(start.astimezone(zone).date()):
            found = self._first_on(day, start, zone)
            if found is not None:
                return found
        return None

    def _days(self, first: date) -> Iterator[date]:
        day = first
        while day.year < first.year + HORIZON_YEARS and day.year < date.max.year:
            if day.month not in self.month:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self.on_day(day):
                yield day
            day += timedelta(days=1)

    def _first_on(self, day: date, start: datetime, zone: ZoneInfo) -> datetime | None:
        midnight = datetime.combine(day, time())
        opening = _offset(midnight, zone)
        closing = _offset((midnight + timedelta(days=1) - MINUTE).replace(fold=1), zone)
        if opening != closing or opening.total_seconds() % 60:
            return self._first_on_odd_day(midnight, start, zone)
        earliest = max(start.replace(tzinfo=None) + opening, midnight)
        if earliest >= midnight + timedelta(days=1):
            return None
        found = self._time_from(earliest.hour, earliest.minute)
        if found is None:
            return None
        local = midnight.replace(hour=found[0], minute=found[1])
        return (local - opening).replace(tzinfo=UTC)

    def _time_from(self, hour: int, minute: int) -> tuple[int, int] | None:
        if hour in self.hour:
            later = self.minute.first_from(minute)
            if later is not None:
                return hour, later
        next_hour = self.hour.first_from(hour + 1)
        first_minute = self.minute.first_from(0)
        return None if next_hour is None or first_minute is None else (next_hour, first_minute)

    def _first_on_odd_day(
        self, midnight: datetime, start: datetime, zone: ZoneInfo
    ) -> datetime | None:
        """Search a day on which clocks are changed: skipped times miss, doubled ones hit twice."""
        begin = midnight.replace(tzinfo=zone).astimezone(UTC) - timedelta(hours=3)
        minute = max(floor_minute(begin), start)
        end = floor_minute(begin) + timedelta(hours=30)
        while minute < end:
            if minute.astimezone(zone).date() == midnight.date() and self.matches(minute, zone):
                return minute
            minute += MINUTE
        return None


Schedule = Interval | Calendar

FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
)


@lru_cache(maxsize=4096)
def parse_schedule(text: str) -> Schedule:
    """Return the schedule a text spells.

    Raises:
        ScheduleError: it is none; the message is the contract's DETAIL.
    """
    if len(text) > MAX_LENGTH:
        raise ScheduleError(f"longer than {MAX_LENGTH} characters")
    trimmed = text.strip(BLANKS)
    interval = INTERVAL.fullmatch(trimmed)
    if interval is not None:
        return _interval(int(interval.group(1)))
    parts = trimmed.replace("\t", " ").split()
    if len(parts) != len(FIELDS) or any(c.isspace() and c not in BLANKS for c in text):
        raise ScheduleError("expected five fields (minute hour day month weekday) or 'N seconds'")
    minute, hour, day, month, weekday = (
        _field(part, *where) for part, where in zip(parts, FIELDS, strict=True)
    )
    sundays = Field(weekday.values | (weekday.values >> 7 & 1), weekday.starred)
    return Calendar(minute, hour, day, month, sundays, last_day=parts[2] == "$")


def load_zone(name: str | None) -> ZoneInfo:
    """Return the zone of a name of the tz database; None is GMT.

    Raises:
        ScheduleError: there is no such zone.
    """
    if name is None:
        return ZoneInfo("GMT")
    if name not in _zone_names():
        raise ScheduleError(f"unknown timezone '{name}'")
    return ZoneInfo(name)


def floor_minute(moment: datetime) -> datetime:
    """Return the beginning of the minute of an aware moment, in UTC."""
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


def ticks_between(
    schedule: Calendar, zone: ZoneInfo, *, handled: datetime, now: datetime
) -> list[datetime]:
    """Return the minutes to fire, given the last handled minute and the current one.

    Both are beginnings of minutes. A gap of up to 5 minutes is caught up by every schedule, one
    of up to 180 by those whose minute and hour are unstarred; otherwise only ``now`` counts. A
    clock that moved back fires nothing.

    Source: REST contract part 30, section 12.2.
    """
    gap = (now - handled) // MINUTE
    if gap <= 0:
        return []
    everything = gap <= CATCH_UP_ALL or (gap <= CATCH_UP_FIXED and schedule.fixed_time)
    if not everything:
        return [now] if schedule.matches(now, zone) else []
    ticks = []
    tick = schedule.next_after(handled, zone)
    while tick is not None and tick <= now:
        ticks.append(tick)
        tick = schedule.next_after(tick, zone)
    return ticks


def _interval(seconds: int) -> Interval:
    if not 1 <= seconds <= 59:
        raise ScheduleError("seconds must be 1-59")
    return Interval(seconds)


def _field(text: str, label: str, low: int, high: int) -> Field:
    if text == "$" and label == "day of month":
        return Field(values=0, starred=False)
    values = 0
    for item in text.split(","):
        values |= _item(item, label, low, high)
    return Field(values, starred=text.startswith("*"))


def _item(text: str, label: str, low: int, high: int) -> int:
    if not text:
        raise ScheduleError(f"{label}: empty list item")
    match = ITEM.fullmatch(text) if text.isascii() else None
    if match is None:
        raise ScheduleError(f"{label}: '{text}' is not a number, a range or '*'")
    begin, end, step = match.groups()
    first, last = (low, high) if begin is None else (int(begin), int(end or begin))
    if begin is not None and step is not None and end is None:
        raise ScheduleError(f"{label}: step without range in '{text}'")
    if first < low or last > high:
        raise ScheduleError(f"{label}: '{text}' is outside {low}-{high}")
    if first > last:
        raise ScheduleError(f"{label}: reversed range '{text}'")
    if step is not None and not 1 <= int(step) <= high:
        raise ScheduleError(f"{label}: step in '{text}' must be 1-{high}")
    return sum(1 << value for value in range(first, last + 1, int(step or 1)))


def _is_last(day: date) -> bool:
    return day.day == calendar.monthrange(day.year, day.month)[1]


def _offset(local: datetime, zone: ZoneInfo) -> timedelta:
    return local.replace(tzinfo=zone).utcoffset() or timedelta()


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - NOT_ZONES
