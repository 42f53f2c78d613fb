"""Integrations that users log in to through OAuth, on real processes, against fakes."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.google import CLIENT_ID, CLIENT_SECRET, FakeGoogle
from tests.fakes.graph import FakeGraph
from tests.fakes.rest import serving
from tests.support.integrations import CALLBACK, Caller, deploy

CLIENT = {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}


@pytest.fixture(scope="module")
def google():
    fake = FakeGoogle()
    with serving(fake):
        yield fake


@pytest.fixture(scope="module")
def gmail(shared_platform, google):
    deploy(shared_platform.admin, "gmail")
    caller = Caller(shared_platform.admin, "gmail")
    refused = caller.client.post(f"{caller.path}/auth/start")
    assert refused.json() == {"error": "integration 'gmail' is not configured"}
    deploy(shared_platform.admin, "gmail", **CLIENT, apiBaseUrl=google.url, oauthBaseUrl=google.url)
    return caller


@pytest.fixture
def connected(gmail, google):
    """The administrator, logged in afresh."""
    google.expires_in = 3600
    gmail.client.delete(f"{gmail.path}/auth")
    page = gmail.return_with(google.log_in(gmail.begin()))
    assert page.status_code == 200, page.text
    google.take()
    return gmail


def rows(caller):
    return caller.client.get(f"{caller.path}/connections").json()


def test_a_login_is_proved_by_a_state_that_works_once(gmail, google, shared_platform):
    gmail.client.delete(f"{gmail.path}/auth")
    google.take()
    url = gmail.begin()
    assert "access_type=offline" in url
    assert "gmail.modify" not in url
    query = google.log_in(url)
    page = gmail.return_with(query)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Connected to Gmail. You can close this tab." in page.text
    assert gmail.return_with(query).status_code == 400
    assert google.take()[0].form["redirect_uri"].endswith(CALLBACK)
    assert [(r["label"], r["status"]) for r in rows(gmail)] == [("ana@google.test", "active")]

    denied = gmail.return_with(f"state={state_of(gmail.begin())}&error=<script>no")
    assert denied.status_code == 400
    assert "&lt;script&gt;no" in denied.text
    no_code = gmail.return_with(f"state={state_of(gmail.begin())}")
    assert no_code.status_code == 400
    # The code of another login does not fit this one's verifier.
    other = google.log_in(gmail.begin()).split("&state=", 1)[0]
    mixed = gmail.return_with(f"{other}&state={state_of(gmail.begin())}")
    assert (mixed.status_code, "invalid_grant" in mixed.text) == (400, True)
    google.tell(503, {})
    assert gmail.return_with(google.log_in(gmail.begin())).status_code == 500
    # A second account is a second connection, the first one again is not.
    gmail.return_with(google.log_in(gmail.begin(), "bo@google.test"))
    gmail.return_with(google.log_in(gmail.begin(), "ana@google.test"))
    assert [r["label"] for r in rows(gmail)] == ["ana@google.test", "bo@google.test"]
    gmail.client.put(f"{gmail.path}/config", json={"enableModifyScope": True})
    assert "gmail.modify" in gmail.begin()
    gmail.client.put(f"{gmail.path}/config", json={"enableModifyScope": None})
    google.take()
    assert gmail.client.delete(f"{gmail.path}/auth").json() == {"message": "disconnected"}
    assert len(google.revoked) >= 2


def state_of(url):
    return url.split("&state=")[1].split("&")[0]


def test_tokens_are_renewed_once_and_a_dead_login_revives(gmail, google):
    google.expires_in = 30
    gmail.client.delete(f"{gmail.path}/auth")
    gmail.return_with(google.log_in(gmail.begin()))
    google.expires_in, google.slow_s, google.refreshes = 3600, 0.3, 0
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda _: gmail.ok("get_profile"), range(20)))
    assert {a["emailAddress"] for a in answers} == {"ana@google.test"}
    assert google.refreshes == 1
    google.slow_s = 0.0

    # The service refuses a token that looks fresh: one forced refresh, one retry.
    google.access.clear()
    assert gmail.ok("get_profile")["historyId"] == "77"
    assert google.refreshes == 2
    google.access.clear()
    google.tell(401, {"error": {"message": "no"}})
    google.tell(503, {})
    assert gmail.fails("get_profile")["code"] == "TEMPORARY_ERROR"
    assert gmail.status()["connected"] is True

    google.access.clear()
    google.refresh.clear()
    error = gmail.fails("get_profile")
    assert error["code"] == "INSUFFICIENT_PERMISSIONS"
    assert gmail.raw("get_profile").json() == {"error": "not connected to 'gmail'"}
    (dead,) = rows(gmail)
    assert (dead["status"], "invalid_grant" in dead["lastError"]) == ("dead", True)
    gmail.return_with(google.log_in(gmail.begin()))
    (revived,) = rows(gmail)
    assert (revived["id"], revived["status"], revived["lastError"]) == (dead["id"], "active", None)
    assert gmail.ok("get_profile")["emailAddress"] == "ana@google.test"


def test_a_named_configuration_is_pinned(connected, google, shared_platform):
    admin = shared_platform.admin
    own = CLIENT | {"oauthBaseUrl": google.url, "apiBaseUrl": google.url}
    body = {"label": "other", "credentials": own}
    made = admin.post(f"{connected.path}/configs", json=body).json()
    connected.return_with(google.log_in(connected.begin(config_id=made["id"]), "named@google.test"))
    refused = admin.delete(f"{connected.path}/configs/{made['id']}")
    assert refused.json() == {"error": "1 connection(s) still use this config"}
    connected.client.delete(f"{connected.path}/auth")
    assert admin.delete(f"{connected.path}/configs/{made['id']}").status_code == 200


def part(kind, text, **more):
    data = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return {"mimeType": kind, "filename": "", "body": {"size": len(text), "data": data}, **more}


MESSAGE = {
    "id": "m1",
    "threadId": "t1",
    "labelIds": ["INBOX"],
    "snippet": "Gr&uuml;&szlig;e",
    "internalDate": "1764000000000",
    "payload": {
        "mimeType": "multipart/mixed",
        "headers": [
            {"name": "From", "value": '"Bo, B." <bo@x.test>'},
            {"name": "To", "value": "ana@google.test, Cy <cy@x.test>"},
            {"name": "Subject", "value": "Grüße"},
            {"name": "Message-Id", "value": "<m1@x.test>"},
            {"name": "References", "value": "<a@x> <b@x>"},
            {"name": "Date", "value": "Mon, 24 Nov 2025 16:00:00 +0000"},
        ],
        "parts": [
            {
                "mimeType": "multipart/alternative",
                "filename": "",
                "parts": [part("text/html", "<style>p{}</style><p>Hallo &amp; gut</p>")],
            },
            {
                "mimeType": "image/png",
                "filename": "logo.png",
                "headers": [
                    {"name": "Content-Disposition", "value": "inline"},
                    {"name": "Content-ID", "value": "<logo>"},
                ],
                "body": {"attachmentId": "a1", "size": 3},
            },
        ],
    },
}


def test_gmail_reads_and_writes(connected, google):
    google.messages.update({"m1": MESSAGE, "m2": {**MESSAGE, "id": "m2"}})
    listed = connected.ok("list_emails", {"query": "is:unread", "maxResults": 1})
    assert (listed["messages"][0]["subject"], listed["nextPageToken"]) == ("Grüße", "1")
    asked = google.take()[0]
    assert asked.query["q"] == "is:unread"
    read = connected.ok("get_email", {"messageId": "m1"})
    assert read["from"] == {"name": "Bo, B.", "address": "bo@x.test"}
    assert (read["snippet"], read["bodyText"]) == ("Grüße", "Hallo & gut")
    assert read["references"] == ["<a@x>", "<b@x>"]
    assert read["attachments"] == [
        {
            "id": "a1",
            "filename": "logo.png",
            "mimeType": "image/png",
            "size": 3,
            "contentId": "logo",
            "isInline": True,
        }
    ]
    wanted = {"messageId": "m1", "attachmentId": "a1"}
    content = connected.ok("get_attachment", wanted)
    assert (base64.b64decode(content["data"]), content["size"]) == (b"\xfb\xff\xfe", 3)
    mail = {
        "to": ["Bo <bo@x.test>"],
        "cc": "cy@x.test, dee@x.test",
        "subject": "Re: Grüße",
        "text": "Hallo",
        "html": "<p>Hallo</p>",
        "inReplyTo": "<m1@x.test>",
        "references": ["<a@x>", "<m1@x.test>"],
        "threadId": "t1",
        "from": "ana@google.test",
        "attachments": [{"filename": "ü.txt", "content": base64.b64encode(b"hi").decode()}],
    }
    sent = connected.ok("send_email", mail)
    message = google.sent[-1]
    assert (sent["threadId"], sent["headerMessageId"]) == ("t1", message["Message-ID"])
    assert message["Cc"] == "cy@x.test, dee@x.test"
    assert message["In-Reply-To"] == "<m1@x.test>"
    assert [p.get_content_type() for p in message.iter_parts()][-1] == "text/plain"
    assert next(message.iter_attachments()).get_filename() == "ü.txt"
    assert connected.ok("create_draft", {"to": "bo@x.test", "subject": "s"})["draftId"] == "draft-1"
    for wrong in ({"subject": "x"}, {"to": "a@x.test", "subject": "x", "from": "evil@x.test"}):
        assert connected.fails("send_email", wrong)["code"] == "MISCONFIGURED"
    assert connected.ok("list_send_as")["sendAs"][0]["sendAsEmail"] == "ana@google.test"
    assert connected.fails("watch")["code"] == "MISCONFIGURED"
    assert connected.ok("watch", {"topicName": "projects/x/topics/y"})["historyId"] == "78"
    assert connected.ok("stop_watch") == {}
    assert connected.fails("get_email", {"messageId": "zz"})["code"] == "NOT_FOUND"
    google.tell(403, {"error": {"message": "slow", "errors": [{"reason": "rateLimitExceeded"}]}})
    assert connected.ok("get_profile")
    google.tell(403, {"error": {"message": "not yours", "errors": [{"reason": "forbidden"}]}})
    assert connected.fails("get_profile")["code"] == "UNKNOWN"
    scope = {"message": "scope", "errors": [{"reason": "insufficientPermissions"}]}
    google.tell(403, {"error": scope})
    assert connected.fails("get_profile")["code"] == "INSUFFICIENT_PERMISSIONS"
    assert connected.status() == {"connected": False, "connectionCount": 0, "deadCount": 1}


def test_google_calendar(shared_platform, google):
    deploy(
        shared_platform.admin,
        "google_calendar",
        **CLIENT,
        apiBaseUrl=google.url,
        oauthBaseUrl=google.url,
    )
    calendar = Caller(shared_platform.admin, "google_calendar")
    google.expires_in = 3600
    calendar.return_with(google.log_in(calendar.begin()))
    profile = {"emailAddress": "ana@google.test", "timeZone": "Europe/Brussels"}
    assert calendar.ok("get_profile") == profile
    assert [c["id"] for c in calendar.ok("list_calendars")["calendars"]] == ["primary", "team"]
    google.take()
    event = {
        "summary": "Lunch",
        "start": {"dateTime": "2026-11-24T12:00:00+01:00"},
        "end": {"dateTime": "2026-11-24T13:00:00+01:00"},
        "attendees": [{"email": "ana@google.test"}],
        "createMeet": True,
    }
    made = calendar.ok("create_event", event)
    assert made["hangoutLink"] == "https://meet.test/x"
    (asked,) = google.take()
    assert asked.query == {"sendUpdates": "all", "conferenceDataVersion": "1"}
    assert asked.path == "/calendar/v3/calendars/primary/events"
    one = {"eventId": made["eventId"]}
    calendar.ok("respond_event", one | {"responseStatus": "accepted"})
    assert google.events[made["eventId"]]["attendees"][0]["responseStatus"] == "accepted"
    patched = calendar.ok(
        "update_event", one | {"patch": {"location": "Hof"}, "sendUpdates": "none"}
    )
    assert patched["location"] == "Hof"
    assert calendar.ok("get_event", one)["summary"] == "Lunch"
    page = calendar.ok("list_events", {"timeMin": "2026-11-24T00:00:00Z", "singleEvents": True})
    assert (len(page["events"]), page["nextSyncToken"]) == (1, "s2")
    assert google.take()[-1].query["singleEvents"] == "true"
    both = calendar.raw("list_events", {"syncToken": "s", "q": "x"})
    assert both.status_code == 400
    assert calendar.fails("list_events", {"syncToken": "old"})["code"] == "SYNC_CURSOR_ERROR"
    busy = {"timeMin": "2026-11-24T00:00:00Z", "timeMax": "2026-11-25T00:00:00Z"}
    found = calendar.ok("freebusy", busy | {"items": [{"id": "team"}]})
    assert found == {"calendars": {"team": {"busy": []}}}
    assert calendar.ok("quick_add", {"text": "Tea at 5"})["summary"] == "Tea at 5"
    watch = calendar.ok("watch", {"address": "https://x.test/hook", "ttlSeconds": 60})
    stop = {"channelId": watch["channelId"], "resourceId": watch["resourceId"]}
    assert calendar.ok("stop_watch", stop) == {}
    for _ in range(2):
        assert calendar.ok("delete_event", one) == {"ok": True}
    assert calendar.fails("get_event", one)["code"] == "NOT_FOUND"


def test_outlook(shared_platform):
    graph = FakeGraph()
    graph.email = "ana@outlook.test"
    with serving(graph):
        config = CLIENT | {"apiBaseUrl": graph.url, "oauthBaseUrl": f"{graph.url}/login"}
        deploy(shared_platform.admin, "outlook", **config)
        outlook = Caller(shared_platform.admin, "outlook")
        outlook.return_with(graph.log_in(outlook.begin()))
        assert rows(outlook)[0]["label"] == "ana@outlook.test"
        graph.messages = {f"m{n}": {"id": f"m{n}", "subject": f"s{n}"} for n in range(25)}
        assert len(outlook.ok("list_emails", {"top": 3})["messages"]) == 3
        assert outlook.ok("get_email", {"messageId": "m1"})["subject"] == "s1"
        mail = {"to": "Bo <bo@x.test>", "subject": "x", "body": "<p>", "html": True}
        assert outlook.ok("send_email", mail) == {"ok": True}
        sent = graph.sent[-1]["message"]
        assert sent["toRecipients"] == [{"emailAddress": {"address": "bo@x.test", "name": "Bo"}}]
        assert sent["body"] == {"contentType": "HTML", "content": "<p>"}
        change = {"messageId": "m1", "isRead": True, "flag": "flagged"}
        assert outlook.ok("modify_email", change)["flag"] == {"flagStatus": "flagged"}
        ids = [f"m{n}" for n in range(25)] + ["gone"]
        batch = outlook.ok("batch_get_emails", {"messageIds": ids})
        assert [m["id"] for m in batch["messages"]] == ids[:-1]
        assert [e["code"] for e in batch["errors"]] == ["NOT_FOUND"]
        page = outlook.ok("delta_list")
        assert len(page["messagesAdded"]) == 25
        rest = outlook.ok("delta_list", {"deltaLink": page["nextLink"]})
        later = outlook.ok("delta_list", {"deltaLink": rest["deltaLink"]})
        assert later["messagesDeleted"] == ["m0"]
        old = page["nextLink"].replace("$skiptoken=s1", "$deltatoken=old")
        assert outlook.fails("delta_list", {"deltaLink": old})["code"] == "SYNC_CURSOR_ERROR"
        graph.take()
        evil = {"deltaLink": f"{graph.url}.evil.test/x"}
        assert outlook.fails("delta_list", evil)["message"] == "deltaLink is not of this service"
        assert graph.take() == []


def test_no_secret_is_anywhere_but_in_the_vault(gmail, google, shared_platform):
    secrets = [CLIENT_SECRET, *google.access, *google.refresh]
    logs = "".join(shared_platform.stack.log(name) for name in shared_platform.stack.processes)
    shown = [
        json.dumps(shared_platform.admin.get(path).json())
        for path in ("/integrations", "/integrations/gmail/connections", "/audit?limit=1000")
    ]
    for secret in secrets:
        assert secret not in logs
        assert not any(secret in text for text in shown)
