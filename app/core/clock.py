"""Time: always timezone-aware UTC, always injectable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Return a time as the API writes it: UTC with ``Z``, no fraction when it is zero."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
