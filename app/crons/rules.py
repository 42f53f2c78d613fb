"""Rules of a cron's fields, shared by the API and the manifest. Pure.

Source: REST contract part 30, sections 10.1 to 10.3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import Invalid
from app.core.schedule import ScheduleError, load_zone, parse_schedule

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_PAYLOAD_BYTES = 256 * 1024
POLICIES = ("skip", "queue")


@dataclass(frozen=True, slots=True)
class ManifestCron:
    """An entry of a manifest's ``crons``, checked; ``method`` is part of the payload."""

    name: str
    schedule: str
    timezone: str | None
    payload: Any  # Any: a JSON value
    overlap_policy: str


def check_name(name: str) -> None:
    """Raise ``Invalid`` unless a text can name a cron."""
    if NAME.fullmatch(name) is None:
        raise Invalid(f"invalid cron name: '{name}'")


def check_schedule(schedule: str) -> None:
    """Raise ``Invalid`` unless a text is a schedule."""
    try:
        parse_schedule(schedule)
    except ScheduleError as exc:
        raise Invalid(f"invalid schedule '{schedule}': {exc}") from exc


def check_timezone(timezone: str | None) -> None:
    """Raise ``Invalid`` unless a text names a zone of the tz database; None is GMT."""
    try:
        load_zone(timezone)
    except ScheduleError as exc:
        raise Invalid(str(exc)) from exc


def check_payload(payload: Any) -> None:  # Any: a JSON value
    """Raise ``Invalid`` when a payload is too large."""
    if (
        len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())
        > MAX_PAYLOAD_BYTES
    ):
        raise Invalid("payload too large")


def check_policy(policy: object) -> None:
    """Raise ``Invalid`` unless it is an overlap policy."""
    if policy not in POLICIES:
        raise Invalid("overlapPolicy must be 'skip' or 'queue'")


def check(field: str, value: Any) -> None:  # Any: depends on the field
    """Check one field of a cron by the name of its column; others pass."""
    checks = {
        "name": check_name,
        "schedule": check_schedule,
        "timezone": check_timezone,
        "payload": check_payload,
        "overlap_policy": check_policy,
    }
    if field in checks:
        checks[field](value)


def read_manifest(entries: list[Mapping[str, Any]]) -> list[ManifestCron]:  # Any: JSON values
    """Return the checked crons of a normalised manifest.

    Raises:
        Invalid: an entry breaks a rule; the text names the cron.
    """
    crons: list[ManifestCron] = []
    for entry in entries:
        name = str(entry.get("name"))
        try:
            crons.append(_read_entry(name, entry))
        except Invalid as exc:
            raise Invalid(f"cron '{name}': {exc.message}") from exc
        if any(cron.name == name for cron in crons[:-1]):
            raise Invalid(f"duplicate cron '{name}'")
    return crons


def _read_entry(name: str, entry: Mapping[str, Any]) -> ManifestCron:  # Any: JSON values
    payload = entry.get("payload", {})
    method = entry.get("method")
    if method is not None:
        if not isinstance(payload, Mapping):
            raise Invalid("payload must be an object when method is given")
        payload = {**payload, "method": method}
    cron = ManifestCron(
        name=name,
        schedule=str(entry.get("schedule")),
        timezone=entry.get("timezone"),
        payload=payload,
        overlap_policy=entry.get("overlapPolicy") or "skip",
    )
    for field in ("name", "schedule", "timezone", "payload", "overlap_policy"):
        check(field, getattr(cron, field))
    return cron


def job_payload(payload: Any, cron_id: str) -> Any:  # Any: JSON values
    """Return what a job of a cron carries: the payload, with ``cron_id`` when it is an object."""
    return {**payload, "cron_id": cron_id} if isinstance(payload, dict) else payload
