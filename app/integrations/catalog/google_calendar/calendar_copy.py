"""Copying calendars and events.

A round lists the calendars and goes through the events of each: everything at first, then what
changed since Google's sync token. The cursor: ``{"calendars": {id: state}, "left": [ids]}``. The
state of a calendar is ``{"token"}``, with ``"page"`` amid several pages; without a token
everything is listed, and ``"since"`` says when that began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import google
import sync
from connector import NOT_FOUND, UNKNOWN, Api, Call, JSONObject, ServiceError, segment
from sync import Page, Step

PREFIX = "/calendar/v3"
AT_ONCE = 250
FORBIDDEN, GONE, BAD_TOKEN, MISSING = 403, 410, 400, 404
METADATA = "metadata"
CALENDAR = {
    "connection_id": "uuid",
    "user_id": "uuid",
    "external_id": "text",
    "name": "text",
    "description": "text",
    "time_zone": "text",
    "access_role": "text",
    "is_primary": "boolean",
}
DETAILS = {
    "summary": "text",
    "description": "text",
    "location": "text",
    "html_link": "text",
    "hangout_link": "text",
    "creator": "text",
    "organizer": "text",
    "attendees": "jsonb",
}
EVENT = {
    "connection_id": "uuid",
    "user_id": "uuid",
    "calendar_external_id": "text",
    "external_id": "text",
    "status": "text",
    "starts_at": "timestamptz",
    "ends_at": "timestamptz",
    "all_day": "boolean",
    "time_zone": "text",
    "ical_uid": "text",
    "recurring_event_id": "text",
    "original_start_at": "timestamptz",
    "recurrence": "jsonb",
    "transparency": "text",
    **DETAILS,
}
CALENDAR_KEY = ("connection_id", "external_id")
EVENT_KEY = ("connection_id", "calendar_external_id", "external_id")


def api(call: Call) -> Api:
    """Return the client of the connected account."""
    return google.api(call, PREFIX)


def calendars_of(google_calendar: Api, query: JSONObject, limit: int = 1000) -> list[JSONObject]:
    """Return the calendars of the account, of all pages."""
    asked = {**query, "maxResults": 250}
    found: list[JSONObject] = []
    while len(found) < limit:
        page = google_calendar.get("/users/me/calendarList", asked)
        found += page.get("items") or ()
        if not page.get("nextPageToken"):
            break
        asked["pageToken"] = page["nextPageToken"]
    return found


# --- the actions -----------------------------------------------------------------------------


def sync_connect(call: Call) -> JSONObject:
    """Begin to copy the calendars."""
    return sync.connect(call, str(api(call).get("/calendars/primary")["id"]), source)


def sync_disconnect(call: Call) -> JSONObject:
    """Copy the calendars no longer."""
    return sync.disconnect(call)


def sync_now(call: Call) -> JSONObject:
    """Copy what changed."""
    return sync.now(call, source)


def update_calendar_visibility(call: Call) -> JSONObject:
    """Choose whether a calendar's events are copied whole or only when they are.

    Raises:
        ServiceError: no such calendar was copied.
    """
    calendar, visibility = str(call.input["calendarExternalId"]), str(call.input["visibility"])
    changed: list[bool] = []
    sync.commit(call.ctx, partial(_show, call, calendar, visibility, changed))
    if not changed:
        raise ServiceError(NOT_FOUND, f"calendar '{calendar}' is not synchronised")
    return {"calendarExternalId": calendar, "visibility": visibility}


def _show(call: Call, calendar: str, visibility: str, changed: list[bool], tx: Any) -> None:
    which = [call.connection_id, calendar]
    found = tx.sql(
        "UPDATE calendars SET visibility = $3 WHERE connection_id = $1 AND external_id = $2",
        [*which, visibility],
    )
    if not found.row_count:
        return
    changed.append(True)
    if visibility == METADATA:
        nothing = ", ".join(f"{name} = NULL" for name in DETAILS)
        tx.sql(
            f"UPDATE events SET {nothing} WHERE connection_id = $1"  # noqa: S608 - names of this code
            " AND calendar_external_id = $2",
            which,
        )
    else:
        # What was left out comes back only if everything is listed again.
        tx.sql(
            "UPDATE sync_cursors SET cursor = cursor #- ARRAY['calendars', $2]"
            " WHERE connection_id = $1",
            which,
        )


# --- the steps -------------------------------------------------------------------------------


@contextmanager
def source(call: Call) -> Iterator[Step]:
    """Return the steps through an account's calendars."""
    google_calendar = api(call)

    def step(cursor: Any) -> Page:  # Any: a JSON value
        if not (cursor or {}).get("left"):
            return _round(call, google_calendar, cursor or {"calendars": {}})
        return _calendar(call, google_calendar, cursor)

    yield step


def _round(call: Call, google_calendar: Api, cursor: JSONObject) -> Page:
    """List the calendars; the events of each are next."""
    found = {str(item["id"]): item for item in calendars_of(google_calendar, {})}
    states = {name: state for name, state in cursor["calendars"].items() if name in found}
    rows = [_calendar_row(call, item) for item in found.values()]

    def store(tx: Any) -> None:  # Any: the SDK's transaction
        sync.upsert(tx, "calendars", CALENDAR, rows, CALENDAR_KEY)
        for entity, name in (("calendars", "external_id"), ("events", "calendar_external_id")):
            tx.sql(
                f"DELETE FROM {entity} WHERE connection_id = $1 AND {name} <> ALL($2)",  # noqa: S608 - names of this code
                [call.connection_id, list(found)],
            )

    return Page({"calendars": states, "left": list(found)}, bool(found), store)


def _calendar(call: Call, google_calendar: Api, cursor: JSONObject) -> Page:
    """Return the next page of events of the calendar whose turn it is."""
    name = cursor["left"][0]
    state = cursor["calendars"].get(name) or {"since": sync.sql(call.ctx, "SELECT now()").scalar()}
    asked = {
        "maxResults": AT_ONCE,
        "syncToken": state.get("token"),
        "pageToken": state.get("page"),
    }
    try:
        page = google_calendar.get(f"/calendars/{segment(name)}/events", asked)
    except ServiceError as exc:
        return _refused(cursor, name, state, exc)
    items = page.get("items") or []
    if page.get("nextPageToken"):
        state = {**state, "page": page["nextPageToken"]}
        return _moved(cursor, name, state, partial(_store, call, name, items), last=False)
    since = None if "token" in state else state["since"]
    store = partial(_store, call, name, items, since=since)
    return _moved(cursor, name, {"token": page.get("nextSyncToken")}, store, last=True)


def _refused(cursor: JSONObject, name: str, state: JSONObject, exc: ServiceError) -> Page:
    """Return how to go on after a refusal that is about this calendar only.

    Raises:
        ServiceError: it is about more.
    """
    stale = exc.status == GONE or (exc.status == BAD_TOKEN and "page" in state)
    if stale and ("token" in state or "page" in state):
        return _moved(cursor, name, None, _nothing, last=False)
    # Not found: the next round's list will not show it. Forbidden: shown, but not readable.
    if exc.status == MISSING or (exc.status == FORBIDDEN and exc.code == UNKNOWN):
        return _moved(cursor, name, cursor["calendars"].get(name), _nothing, last=True)
    raise exc


def _nothing(_tx: Any) -> None:
    return


def _moved(
    cursor: JSONObject,
    name: str,
    state: JSONObject | None,
    store: Callable[[Any], None],
    *,
    last: bool,
) -> Page:
    """Return the page that leaves a calendar in a state; ``last``: its turn is over."""
    states = {**cursor["calendars"], name: state}
    if state is None:
        del states[name]
    left = cursor["left"][1:] if last else cursor["left"]
    return Page({"calendars": states, "left": left}, bool(left), store)


def _store(
    call: Call, calendar: str, items: Sequence[JSONObject], tx: Any, since: str | None = None
) -> None:
    """Write a page of events; after the last page of everything, delete what was on none."""
    which = [call.connection_id, calendar]
    # Locked, so that nobody chooses to hide details while they are written.
    visibility = tx.sql(
        "SELECT visibility FROM calendars WHERE connection_id = $1 AND external_id = $2 FOR UPDATE",
        which,
    ).scalar()
    gone = [item["id"] for item in items if _deleted(item)]
    rows = {
        item["id"]: _event_row(call, calendar, item, hidden=visibility == METADATA)
        for item in items
        if not _deleted(item)
    }
    sync.upsert(tx, "events", EVENT, list(rows.values()), EVENT_KEY)
    if gone:
        tx.sql(
            "DELETE FROM events WHERE connection_id = $1 AND calendar_external_id = $2"
            " AND (external_id = ANY($3) OR recurring_event_id = ANY($3))",
            [*which, gone],
        )
    if since is not None:
        tx.sql(
            "DELETE FROM events WHERE connection_id = $1 AND calendar_external_id = $2"
            " AND updated_at < $3",
            [*which, since],
        )


def _deleted(item: JSONObject) -> bool:
    """Tell an event that is gone from a single date taken out of a series, which is kept."""
    return item.get("status") == "cancelled" and not item.get("recurringEventId")


def _calendar_row(call: Call, item: JSONObject) -> JSONObject:
    return {
        "connection_id": call.connection_id,
        "user_id": call.user_id,
        "external_id": item["id"],
        "name": item.get("summaryOverride") or item.get("summary"),
        "description": item.get("description"),
        "time_zone": item.get("timeZone"),
        "access_role": item.get("accessRole"),
        "is_primary": bool(item.get("primary")),
    }


def _event_row(call: Call, calendar: str, item: JSONObject, *, hidden: bool) -> JSONObject:
    row = {
        "connection_id": call.connection_id,
        "user_id": call.user_id,
        "calendar_external_id": calendar,
        "external_id": item["id"],
        "status": item.get("status"),
        "starts_at": _moment(item.get("start")),
        "ends_at": _moment(item.get("end")),
        "all_day": "date" in (item.get("start") or {}),
        "time_zone": (item.get("start") or {}).get("timeZone"),
        "ical_uid": item.get("iCalUID"),
        "recurring_event_id": item.get("recurringEventId"),
        "original_start_at": _moment(item.get("originalStartTime")),
        "recurrence": item.get("recurrence"),
        "transparency": item.get("transparency"),
        "summary": item.get("summary"),
        "description": item.get("description"),
        "location": item.get("location"),
        "html_link": item.get("htmlLink"),
        "hangout_link": item.get("hangoutLink"),
        "creator": (item.get("creator") or {}).get("email"),
        "organizer": (item.get("organizer") or {}).get("email"),
        "attendees": item.get("attendees"),
    }
    return {**row, **dict.fromkeys(DETAILS)} if hidden else row


def _moment(value: JSONObject | None) -> str | None:
    """Return a time as Postgres takes it; a whole day begins at midnight UTC."""
    given = value or {}
    return given.get("dateTime") or given.get("date")
