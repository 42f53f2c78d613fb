"""Google: OAuth with PKCE and rotating refresh tokens, Gmail and Calendar for one account."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from tests.fakes.rest import Asked, FakeService, Told

CLIENT_ID = "client-of-trellis.apps.test"
CLIENT_SECRET = "GOCSPX-very-secret"
GMAIL = "/gmail/v1/users/me"
CALENDAR = "/calendar/v3"


class FakeOAuth(FakeService):
    """An authorization server that does what RFC 6749 and 7636 say.

    ``expires_in`` is the life of access tokens; ``slow_s`` the time a refresh takes.
    """

    paths = ("/o/oauth2/v2/auth", "/token", "/revoke")

    def __init__(self) -> None:
        super().__init__()
        self.email = "ana@google.test"
        self.expires_in = 3600
        self.client_auth = "post"
        self.slow_s = 0.0
        self.codes: dict[str, dict[str, str]] = {}
        self.access: dict[str, str] = {}
        self.refresh: dict[str, str] = {}
        self.refreshes = 0
        self.revoked: list[str] = []

    def log_in(self, url: str, email: str | None = None) -> str:
        """Play the browser at the login page; return the callback's query."""
        parts = urlsplit(url)
        assert url.startswith(f"{self.url}{self.paths[0]}?"), url
        asked = {k: v[0] for k, v in parse_qs(parts.query).items()}
        assert asked["client_id"] == CLIENT_ID
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = f"4/{secrets.token_urlsafe(12)}"
        self.codes[code] = {**asked, "email": email or self.email}
        return urlencode({"code": code, "state": asked["state"], "scope": asked["scope"]})

    def handle(self, asked: Asked) -> Told:
        if asked.method == "POST" and asked.path == self.paths[1]:
            return self.token(asked)
        if asked.method == "POST" and asked.path == self.paths[2]:
            self.revoked.append(asked.form["token"])
            return Told(body={})
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.access:
            return google_error(401, "Invalid Credentials", "authError")
        if (asked.method, asked.path) == ("GET", "/userinfo"):
            return Told(body={"sub": "1", "mail": self.access[token]})
        return self.api(asked, self.access[token])

    def api(self, asked: Asked, email: str) -> Told:
        return google_error(404, f"no path {asked.path}", "notFound")

    def token(self, asked: Asked) -> Told:
        form = asked.form
        expected: tuple[str | None, ...] = (CLIENT_ID, CLIENT_SECRET, None)
        if self.client_auth == "basic":
            pair = f"{quote(CLIENT_ID, safe='')}:{quote(CLIENT_SECRET, safe='')}".encode()
            expected = (None, None, f"Basic {base64.b64encode(pair).decode()}")
        given = (
            form.get("client_id"),
            form.get("client_secret"),
            asked.headers.get("authorization"),
        )
        if given != expected:
            return Told(401, {"error": "invalid_client"})
        if form["grant_type"] == "authorization_code":
            begun = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if begun is None or challenge != begun["code_challenge"]:
                return Told(400, {"error": "invalid_grant"})
            if begun["redirect_uri"] != form["redirect_uri"]:
                return Told(400, {"error": "redirect_uri_mismatch"})
            return Told(body=self.grant(begun["email"]))
        time.sleep(self.slow_s)
        with self.lock:
            self.refreshes += 1
            email = self.refresh.pop(form["refresh_token"], None)
        return (
            Told(400, {"error": "invalid_grant"}) if email is None else Told(body=self.grant(email))
        )

    def grant(self, email: str) -> dict[str, Any]:
        access, refresh = f"ya29.{secrets.token_urlsafe(12)}", f"1//{secrets.token_urlsafe(12)}"
        self.access[access], self.refresh[refresh] = email, email
        claims = json.dumps({"email": email, "preferred_username": email}).encode()
        middle = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
        return {
            "access_token": access,
            "refresh_token": refresh,
            "expires_in": self.expires_in,
            "scope": "email",
            "token_type": "Bearer",
            "id_token": f"e30.{middle}.sig",
        }


class FakeGoogle(FakeOAuth):
    """Gmail and Calendar."""

    def __init__(self) -> None:
        super().__init__()
        self.whose = ""
        self.sent: list[Any] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.oldest_history = 77
        self.empty_pages = 0
        self.events: dict[str, dict[str, Any]] = {}
        self.calendar_ids = ["primary", "team"]
        self.copied: dict[str, dict[str, dict[str, Any]]] = {}
        self.changes: dict[str, list[dict[str, Any]]] = {}
        self.oldest_change = 0
        self.forbidden: set[str] = set()
        self.hold_at = ""
        self.held, self._go_on = threading.Event(), threading.Event()

    def api(self, asked: Asked, email: str) -> Told:
        for method, pattern, route in (
            ("GET", f"{GMAIL}/profile", self.profile),
            ("GET", f"{GMAIL}/settings/sendAs", self.send_as),
            ("GET", f"{GMAIL}/messages", self.listed),
            ("GET", f"{GMAIL}/history", self.history_page),
            ("GET", f"{GMAIL}/messages/([^/]+)", self.message),
            ("GET", f"{GMAIL}/messages/([^/]+)/attachments/([^/]+)", self.attachment),
            ("POST", f"{GMAIL}/messages/send", self.send),
            ("POST", f"{GMAIL}/drafts", self.draft),
            ("POST", f"{GMAIL}/watch", self.watch),
            ("POST", f"{GMAIL}/stop", lambda _asked: Told(204)),
            ("GET", f"{CALENDAR}/calendars/primary", self.primary),
            ("GET", f"{CALENDAR}/users/me/calendarList", self.calendars),
            ("GET", f"{CALENDAR}/calendars/([^/]+)/events", self.event_list),
            ("POST", f"{CALENDAR}/calendars/([^/]+)/events", self.create),
            ("POST", f"{CALENDAR}/calendars/([^/]+)/events/quickAdd", self.quick),
            ("POST", f"{CALENDAR}/calendars/([^/]+)/events/watch", self.watch_events),
            ("GET", f"{CALENDAR}/calendars/([^/]+)/events/([^/]+)", self.event),
            ("PATCH", f"{CALENDAR}/calendars/([^/]+)/events/([^/]+)", self.patch),
            ("DELETE", f"{CALENDAR}/calendars/([^/]+)/events/([^/]+)", self.delete),
            ("POST", f"{CALENDAR}/freeBusy", self.freebusy),
            ("POST", f"{CALENDAR}/channels/stop", lambda _asked: Told(204)),
        ):
            match = re.fullmatch(pattern, asked.path)
            if match is not None and asked.method == method:
                self.whose = email
                return route(asked, *match.groups())
        return google_error(404, f"no path {asked.method} {asked.path}", "notFound")

    # Gmail

    @property
    def history_id(self) -> int:
        return int(self.history[-1]["id"]) if self.history else 77

    def let_go(self) -> None:
        """Answer the question for the message ``hold_at``, and hold no more."""
        self.hold_at = ""
        self._go_on.set()

    def happened(self, kind: str, message_id: str) -> None:
        """Note a change in the mailbox's history."""
        entry = {"id": str(self.history_id + 1), kind: [{"message": {"id": message_id}}]}
        self.history.append(entry)

    def history_page(self, asked: Asked) -> Told:
        start = int(asked.query["startHistoryId"])
        if start < self.oldest_history:
            return google_error(404, "Requested entity was not found.", "notFound")
        size = int(asked.query["maxResults"])
        found = [entry for entry in self.history if int(entry["id"]) > start]
        if found and "pageToken" not in asked.query and self.empty_pages:
            self.empty_pages -= 1
            empty = {"historyId": str(self.history_id), "nextPageToken": "next"}
            return Told(body=empty)
        page: dict[str, Any] = {"historyId": str(self.history_id)}
        if found:
            page["history"] = found[:size]
        if len(found) > size:
            page["nextPageToken"] = "next"
        return Told(body=page)

    def profile(self, _asked: Asked) -> Told:
        return Told(
            body={"emailAddress": self.whose, "historyId": str(self.history_id), "messagesTotal": 3}
        )

    def send_as(self, _asked: Asked) -> Told:
        return Told(body={"sendAs": [{"sendAsEmail": self.whose, "isDefault": True}]})

    def listed(self, asked: Asked) -> Told:
        found = sorted(self.messages)
        start = int(asked.query.get("pageToken") or 0)
        size = int(asked.query["maxResults"])
        page: dict[str, Any] = {"messages": [{"id": i} for i in found[start : start + size]]}
        if start + size < len(found):
            page["nextPageToken"] = str(start + size)
        return Told(body=page)

    def message(self, asked: Asked, message_id: str) -> Told:
        assert asked.query["format"] in {"full", "metadata"}
        if message_id == self.hold_at:
            self.held.set()
            self._go_on.wait(30)
        found = self.messages.get(message_id)
        return google_error(404, "gone", "notFound") if found is None else Told(body=found)

    def attachment(self, _asked: Asked, _message_id: str, _found: str) -> Told:
        return Told(body={"size": 3, "data": base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode()})

    def send(self, asked: Asked) -> Told:
        raw = base64.urlsafe_b64decode(asked.body["raw"])
        self.sent.append(message_from_bytes(raw, policy=policy.default))
        return Told(body={"id": "sent-1", "threadId": asked.body.get("threadId") or "t-1"})

    def draft(self, asked: Asked) -> Told:
        assert base64.urlsafe_b64decode(asked.body["message"]["raw"])
        return Told(body={"id": "draft-1", "message": {"id": "m-1", "threadId": "t-1"}})

    def watch(self, asked: Asked) -> Told:
        assert asked.body["topicName"].startswith("projects/")
        return Told(body={"historyId": "78", "expiration": "1800000000000"})

    # Calendar

    def primary(self, _asked: Asked) -> Told:
        return Told(body={"id": self.whose, "timeZone": "Europe/Brussels"})

    def calendars(self, asked: Asked) -> Told:
        first, *rest = self.calendar_ids
        if "pageToken" not in asked.query:
            return Told(body={"items": [{"id": first, "summary": "P"}], "nextPageToken": "2"})
        return Told(body={"items": [{"id": name, "summary": name} for name in rest]})

    def change(self, calendar: str, event: dict[str, Any]) -> None:
        """Make an event of a calendar that is to be copied, change it or cancel it."""
        if event.get("status") == "cancelled" and "recurringEventId" not in event:
            self.copied[calendar].pop(event["id"])
        else:
            self.copied.setdefault(calendar, {})[event["id"]] = event
        self.changes.setdefault(calendar, []).append(event)

    def changed_events(self, asked: Asked, calendar: str) -> Told:
        """Answer one event a page, of everything or of what changed since a token."""
        assert not asked.query.keys() - {"maxResults", "syncToken", "pageToken"}
        changes, token = self.changes.get(calendar, []), asked.query.get("syncToken")
        if token is not None and int(token) < self.oldest_change:
            return google_error(410, "Sync token is no longer valid", "fullSyncRequired")
        all_items = list(self.copied[calendar].values()) if token is None else changes[int(token) :]
        start = int(asked.query.get("pageToken") or 0)
        page: dict[str, Any] = {"items": all_items[start : start + 1]}
        if start + 1 < len(all_items):
            return Told(body={**page, "nextPageToken": str(start + 1)})
        return Told(body={**page, "nextSyncToken": str(len(changes))})

    def event_list(self, asked: Asked, calendar: str) -> Told:
        if asked.query.get("syncToken") == "old":
            return google_error(410, "Sync token is no longer valid", "fullSyncRequired")
        if calendar in self.forbidden:
            return google_error(403, "Forbidden", "forbidden")
        if calendar in self.copied:
            return self.changed_events(asked, calendar)
        return Told(body={"items": list(self.events.values()), "nextSyncToken": "s2"})

    def create(self, asked: Asked, _calendar: str) -> Told:
        event = {"id": f"e{len(self.events)}", "htmlLink": "https://cal.test/e", **asked.body}
        if asked.query.get("conferenceDataVersion") == "1":
            event["hangoutLink"] = "https://meet.test/x"
        event["attendees"] = [
            {**a, "self": a["email"] == self.whose} for a in asked.body.get("attendees", ())
        ]
        self.events[event["id"]] = event
        return Told(body=event)

    def quick(self, asked: Asked, _calendar: str) -> Told:
        return Told(body={"id": "q1", "summary": asked.query["text"]})

    def watch_events(self, asked: Asked, _calendar: str) -> Told:
        assert asked.body["type"] == "web_hook"
        return Told(body={"id": asked.body["id"], "resourceId": "r1", "expiration": "18"})

    def event(self, _asked: Asked, _calendar: str, event_id: str) -> Told:
        found = self.events.get(event_id)
        return google_error(404, "Not Found", "notFound") if found is None else Told(body=found)

    def patch(self, asked: Asked, _calendar: str, event_id: str) -> Told:
        self.events[event_id].update(asked.body)
        return Told(body=self.events[event_id])

    def delete(self, _asked: Asked, _calendar: str, event_id: str) -> Told:
        if self.events.pop(event_id, None) is None:
            return google_error(410, "Resource has been deleted", "deleted")
        return Told(204)

    def freebusy(self, asked: Asked) -> Told:
        return Told(body={"calendars": {i["id"]: {"busy": []} for i in asked.body["items"]}})


def google_error(status: int, text: str, reason: str) -> Told:
    """Return an error as Google words it."""
    error = {"code": status, "message": text, "errors": [{"reason": reason}]}
    return Told(status, {"error": error})
