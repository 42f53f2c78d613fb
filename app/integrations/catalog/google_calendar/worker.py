"""Calendars and events of Google accounts (Calendar API v3)."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import calendar_copy
from calendar_copy import api
from connector import NOT_FOUND, Call, JSONObject, ServiceError, dispatcher, segment
from sync import sync_all
from trellis_worker import serve

EVENT_FIELDS = (
    "summary",
    "description",
    "location",
    "start",
    "end",
    "attendees",
    "recurrence",
    "guestsCanModify",
    "guestsCanInviteOthers",
    "transparency",
    "visibility",
)
LIST_FIELDS = (
    "timeMin",
    "timeMax",
    "q",
    "maxResults",
    "pageToken",
    "singleEvents",
    "showDeleted",
    "orderBy",
    "syncToken",
)


def calendar(call: Call) -> str:
    """Return the path of the calendar a call is about."""
    return f"/calendars/{segment(call.input.get('calendarId') or 'primary')}"


def event(call: Call) -> str:
    """Return the path of the event a call is about."""
    return f"{calendar(call)}/events/{segment(call.input['eventId'])}"


def told(call: Call) -> JSONObject:
    """Return who is told of a change."""
    return {"sendUpdates": call.input.get("sendUpdates") or "all"}


# --- reading ---------------------------------------------------------------------------------


def list_calendars(call: Call) -> JSONObject:
    """Return the calendars of the account, of all pages."""
    query = call.given("showHidden", "minAccessRole")
    return {"calendars": calendar_copy.calendars_of(api(call), query)}


def list_events(call: Call) -> JSONObject:
    """Return one page of events, or of changes since a sync token."""
    page = api(call).get(f"{calendar(call)}/events", call.given(*LIST_FIELDS))
    return {
        "events": page.get("items") or [],
        "nextPageToken": page.get("nextPageToken"),
        "nextSyncToken": page.get("nextSyncToken"),
    }


def get_event(call: Call) -> Any:  # Any: the service's event
    """Return an event."""
    return api(call).get(event(call))


def freebusy(call: Call) -> JSONObject:
    """Return when calendars are busy."""
    body = call.given("timeMin", "timeMax", "items", "timeZone")
    answer = api(call).post("/freeBusy", body, repeatable=True)
    return {"calendars": answer.get("calendars") or {}}


def get_profile(call: Call) -> JSONObject:
    """Return the account's address and time zone: those of its primary calendar."""
    primary = api(call).get("/calendars/primary")
    return {"emailAddress": primary["id"], "timeZone": primary.get("timeZone")}


# --- writing ---------------------------------------------------------------------------------


def create_event(call: Call) -> JSONObject:
    """Create an event, with a video meeting if wanted."""
    body = call.given(*EVENT_FIELDS)
    query = told(call)
    if call.input.get("createMeet"):
        query["conferenceDataVersion"] = 1
        body["conferenceData"] = {
            "createRequest": {
                "requestId": uuid4().hex,
                "conferenceSolutionKey": {"type": "hangoutsMeet"},
            }
        }
    made = api(call).send("POST", f"{calendar(call)}/events", query=query, body=body)
    return {
        "eventId": made["id"],
        "htmlLink": made.get("htmlLink"),
        "hangoutLink": made.get("hangoutLink"),
    }


def update_event(call: Call) -> Any:  # Any: the service's event
    """Change fields of an event."""
    patch = call.input["patch"]
    return api(call).send("PATCH", event(call), query=told(call), body=patch, repeatable=True)


def delete_event(call: Call) -> JSONObject:
    """Delete an event; one that is gone already is fine."""
    try:
        api(call).send("DELETE", event(call), query=told(call))
    except ServiceError as exc:
        if exc.status != 410:
            raise
    return {"ok": True}


def respond_event(call: Call) -> Any:  # Any: the service's event
    """Answer an invitation as the account.

    Raises:
        ServiceError: the account is not invited.
    """
    google_calendar = api(call)
    attendees = google_calendar.get(event(call)).get("attendees") or []
    mine = [attendee for attendee in attendees if attendee.get("self")]
    if not mine:
        raise ServiceError(NOT_FOUND, "this account is not invited to the event")
    for attendee in mine:
        attendee["responseStatus"] = call.input["responseStatus"]
    body = {"attendees": attendees}
    return google_calendar.send("PATCH", event(call), body=body, repeatable=True)


def quick_add(call: Call) -> Any:  # Any: the service's event
    """Create an event from a sentence."""
    query = {"text": call.input["text"], **told(call)}
    return api(call).send("POST", f"{calendar(call)}/events/quickAdd", query=query)


# --- push notifications ----------------------------------------------------------------------


def watch(call: Call) -> JSONObject:
    """Have changes of a calendar's events pushed to an address."""
    body: JSONObject = {
        "id": str(uuid4()),
        "type": "web_hook",
        **call.given("address", "token"),
    }
    if call.input.get("ttlSeconds"):
        body["params"] = {"ttl": str(call.input["ttlSeconds"])}
    begun = api(call).post(f"{calendar(call)}/events/watch", body)
    return {
        "channelId": begun["id"],
        "resourceId": begun.get("resourceId"),
        "expiration": begun.get("expiration"),
    }


def stop_watch(call: Call) -> JSONObject:
    """Have nothing pushed any more."""
    body = {"id": call.input["channelId"], "resourceId": call.input["resourceId"]}
    api(call).post("/channels/stop", body, repeatable=True)
    return {}


serve(
    rpc={
        "__integration": dispatcher(
            {
                "list_calendars": list_calendars,
                "list_events": list_events,
                "get_event": get_event,
                "create_event": create_event,
                "update_event": update_event,
                "delete_event": delete_event,
                "respond_event": respond_event,
                "quick_add": quick_add,
                "freebusy": freebusy,
                "get_profile": get_profile,
                "update_calendar_visibility": calendar_copy.update_calendar_visibility,
                "watch": watch,
                "stop_watch": stop_watch,
                "sync_connect": calendar_copy.sync_connect,
                "sync_disconnect": calendar_copy.sync_disconnect,
                "sync_now": calendar_copy.sync_now,
            }
        )
    },
    on_job=sync_all,
)
