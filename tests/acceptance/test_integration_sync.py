"""Copies that integrations keep of mailboxes and calendars, on real processes, against fakes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import psutil
import psycopg
import pytest

from tests.fakes.google import CLIENT_ID, CLIENT_SECRET, GMAIL, FakeGoogle
from tests.fakes.mail_servers import running_mailbox
from tests.fakes.rest import serving
from tests.support.integrations import Caller, deploy
from tests.support.stack import wait_until

CLIENT = {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}
SYNC = ["sync_connect", "sync_disconnect", "sync_now", "update_calendar_visibility"]


@pytest.fixture(scope="module")
def google():
    fake = FakeGoogle()
    fake.email = "sam@google.test"
    with serving(fake):
        yield fake


@pytest.fixture(scope="module")
def sam(shared_platform, installed):
    """A user who may synchronise and nothing else: no key opens the copies to him."""
    admin = shared_platform.admin
    client = shared_platform.stack.sign_up("sam@example.com")
    user_id = client.get("/auth/me").json()["id"]
    keys = [
        f"integration:{integration}:{action}"
        for integration in ("gmail", "google_calendar", "imap_smtp")
        for action in SYNC
    ]
    admin.post("/roles", json={"name": "syncing", "permissions": keys})
    given = admin.post("/roles/assign", json={"userId": user_id, "role": "syncing"})
    assert given.status_code == 200, given.text
    return client


@pytest.fixture(scope="module")
def installed(shared_platform, google):
    """The integrations, without what other tests have in them."""
    admin = shared_platform.admin
    names = ("gmail", "google_calendar", "imap_smtp")
    for name in names:
        admin.delete(f"/integrations/catalog/{name}")
    deploy(admin, "imap_smtp")
    for name in names[:2]:
        deploy(admin, name, **CLIENT, apiBaseUrl=google.url, oauthBaseUrl=google.url)
    yield
    for name in names:
        assert admin.delete(f"/integrations/catalog/{name}").status_code == 200


@pytest.fixture
def connected(installed, google, sam):
    """Log Sam in at an integration of Google."""

    def log_in(integration):
        caller = Caller(sam, integration)
        google.take()
        page = caller.return_with(google.log_in(caller.begin()))
        assert "You can close this tab." in page.text, page.text
        return caller

    return log_in


def copies(platform, app_id, entity, **where):
    where = {name: {"$eq": value} for name, value in where.items()}
    answer = platform.admin.post(
        f"/apps/{app_id}/collections/{entity}/query", json={"where": where, "limit": 1000}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def mail(number, labels=("INBOX",), **headers):
    values = {
        "From": "Bo <bo@x.test>",
        "To": "sam@google.test, Cy <cy@x.test>",
        "Subject": f"No {number}\0",
        "Message-ID": f"<{number}@x.test>",
        **headers,
    }
    return {
        "id": f"m{number:03}",
        "threadId": f"t{number // 2:03}",
        "labelIds": list(labels),
        "snippet": "hm",
        "internalDate": str(1764000000000 + number * 1000),
        "payload": {
            "mimeType": "multipart/mixed",
            "headers": [{"name": n, "value": v} for n, v in values.items()],
            "parts": [
                {"mimeType": "text/plain", "filename": "", "body": {"size": 2, "data": "aGk"}},
                {"mimeType": "image/png", "filename": "x.png", "body": {"size": 3}},
            ],
        },
    }


def put(google, *numbers, kind="messagesAdded", **kwargs):
    for number in numbers:
        google.messages[f"m{number:03}"] = mail(number, **kwargs)
        google.happened(kind, f"m{number:03}")


def ids(platform, app_id="gmail"):
    return sorted(m["external_id"] for m in copies(platform, app_id, "messages"))


def test_gmail_is_copied_and_followed(connected, google, shared_platform, sam):
    put(google, *range(60))
    gmail = connected("gmail")
    assert ids(shared_platform) == sorted(google.messages)
    asked = [a for a in google.take() if a.path.startswith(GMAIL)]
    listed = [a.query for a in asked if a.path == f"{GMAIL}/messages"]
    assert [q.get("pageToken") for q in listed] == [None, "25", "50"]
    assert {(q["q"], q["maxResults"]) for q in listed} == {("newer_than:90d", "25")}
    assert sam.get("/apps/gmail/collections/messages").status_code == 403
    (one,) = copies(shared_platform, "gmail", "messages", external_id="m007")
    assert one["user_id"] == sam.get("/auth/me").json()["id"]
    assert (one["subject"], one["header_message_id"]) == ("No 7", "<7@x.test>")
    assert (one["body_text"], one["label_ids"]) == ("hi", ["INBOX"])
    people = copies(shared_platform, "gmail", "participants", message_id=one["id"])
    assert sorted((p["role"], p["address"], p["name"]) for p in people) == [
        ("from", "bo@x.test", "Bo"),
        ("to", "cy@x.test", "Cy"),
        ("to", "sam@google.test", None),
    ]
    (attachment,) = copies(shared_platform, "gmail", "attachments", message_id=one["id"])
    assert (attachment["filename"], attachment["size"]) == ("x.png", 3)
    assert len(copies(shared_platform, "gmail", "threads")) == 30

    # Nothing happened: one question, no message is fetched again.
    assert gmail.ok("sync_now") == {"triggered": True}
    (asked,) = google.take()
    assert (asked.path, asked.query["startHistoryId"]) == (
        f"{GMAIL}/history",
        str(google.history_id),
    )
    # More than a page of changes; a draft saved again; a thread that loses its last message.
    put(google, *range(60), kind="labelsAdded", labels=["INBOX", "STARRED"])
    put(google, 60, **{"Message-ID": "<59@x.test>"})
    for number in (2, 3, 59):
        del google.messages[f"m{number:03}"]
        google.happened("messagesDeleted", f"m{number:03}")
    # Gone without a word in the history so far.
    del google.messages["m010"]
    gmail.ok("sync_now")
    pages = [a for a in google.take() if a.path == f"{GMAIL}/history"]
    assert len(pages) == 2
    assert ids(shared_platform) == sorted(google.messages)
    rows = copies(shared_platform, "gmail", "messages")
    assert {tuple(m["label_ids"]) for m in rows if m["external_id"] != "m060"} == {
        ("INBOX", "STARRED")
    }
    assert "t001" not in {t["external_id"] for t in copies(shared_platform, "gmail", "threads")}
    people = copies(shared_platform, "gmail", "participants")
    assert len(people) == 3 * len(rows)

    # The history is too old: everything is compared, one by one where the list says nothing.
    google.oldest_history = google.history_id + 1
    for number in (20, 21):
        del google.messages[f"m{number:03}"]
    google.messages["m061"] = mail(61)
    google.history.append({"id": str(google.history_id + 5)})
    gmail.ok("sync_now")
    assert ids(shared_platform) == sorted(google.messages)


def test_gmail_failures_lose_and_double_nothing(connected, google, shared_platform):
    gmail = connected("gmail")
    # One takes the Message-ID that another has until now, and an empty page comes first.
    put(google, 59, 60, *range(100, 130))
    google.empty_pages = 1
    # A token that is not taken any more is renewed in the middle; one failure is tried again.
    google.access.clear()
    gmail.ok("sync_now")
    assert ids(shared_platform) == sorted(google.messages)
    put(google, *range(130, 133))
    google.take()
    google.tell(429, {"error": {"message": "slow down"}}, Retry_After="3600")
    error = gmail.fails("sync_now")
    assert (error["code"], error["message"]) == ("TEMPORARY_ERROR", "slow down")
    assert error["retryAfter"] > time.time() * 1000 + 3_000_000
    (cursor,) = copies(shared_platform, "gmail", "sync_cursors")
    assert (cursor["status"], cursor["throttle_count"]) == ("failed", 1)
    assert (cursor["handle"], cursor["last_error"]) == ("sam@google.test", "slow down")
    google.take()
    # Nobody asks again before that moment, and then only once per connection.
    assert gmail.fails("sync_now")["retryAfter"] == error["retryAfter"]
    assert google.take() == []
    begun = gmail.ok("sync_connect")
    assert begun == {"cursor_id": cursor["id"], "handle": "sam@google.test"}
    assert ids(shared_platform) == sorted(google.messages)

    # The app process dies between a page that was copied and one that was fetched.
    put(google, *range(200, 260))
    google.hold_at = "m255"
    with ThreadPoolExecutor(1) as caller:
        syncing = caller.submit(gmail.raw, "sync_now")
        wait_until(google.held.is_set, what="the sync to reach that message")
        process_of("gmail", shared_platform).kill()
        assert syncing.result().status_code == 500
    google.let_go()
    assert 0 < len([i for i in ids(shared_platform) if i >= "m200"]) < 60
    # Several at once: whoever is slower gives up, and nothing is there twice.
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(lambda _: gmail.ok("sync_now"), range(4)))
    assert results == [{"triggered": True}] * 4
    assert ids(shared_platform) == sorted(google.messages)
    (cursor,) = copies(shared_platform, "gmail", "sync_cursors")
    assert (cursor["status"], cursor["throttle_count"]) == ("active", 0)

    # The cron's job works for everybody who is connected, as its owner the administrator.
    put(google, 300)
    admin = shared_platform.admin
    (cron,) = admin.get("/apps/gmail/crons").json()
    assert (cron["schedule"], cron["payload"]) == ("*/5 * * * *", {"type": "sync_all"})
    assert admin.post(f"/apps/gmail/crons/{cron['id']}/trigger").status_code == 200
    wait_until(lambda: "m300" in ids(shared_platform), what="the cron's job")

    assert gmail.ok("sync_disconnect") == {"ok": True}
    put(google, 301)
    assert gmail.ok("sync_now") == {"triggered": False}
    assert "m301" not in ids(shared_platform)
    gmail.ok("sync_connect")
    assert ids(shared_platform) == sorted(google.messages)
    google.access.clear()
    google.refresh.clear()
    assert gmail.fails("sync_now")["code"] == "INSUFFICIENT_PERMISSIONS"
    assert gmail.status()["deadCount"] == 1


def process_of(app_id, platform):
    url = platform.database_url.replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        wanted = "SELECT pid FROM trellis.worker_instances WHERE app_id = %s"
        return psutil.Process(connection.execute(wanted, [app_id]).fetchone()[0])


def appointment(name, day=24, **more):
    return {
        "id": name,
        "status": "confirmed",
        "summary": f"about {name}",
        "start": {"dateTime": f"2026-11-{day}T12:00:00+01:00", "timeZone": "Europe/Brussels"},
        "end": {"dateTime": f"2026-11-{day}T13:00:00+01:00"},
        "attendees": [{"email": "ana@google.test"}],
        **more,
    }


def test_calendars_are_copied_and_followed(connected, google, shared_platform):
    for number in range(3):
        google.change("primary", appointment(f"p{number}"))
    google.change("team", appointment("t0", start={"date": "2026-11-25"}))
    taken_out = {"recurringEventId": "p0", "status": "cancelled"}
    google.change("primary", {"id": "p0_x", **taken_out})
    calendar = connected("google_calendar")
    events = lambda **where: copies(  # noqa: E731
        shared_platform, "google_calendar", "events", **where
    )
    names = lambda: sorted(e["external_id"] for e in events())  # noqa: E731
    assert names() == ["p0", "p0_x", "p1", "p2", "t0"]
    (event,) = events(external_id="p1")
    assert (event["summary"], event["starts_at"]) == ("about p1", "2026-11-24T11:00:00Z")
    (event,) = events(external_id="t0")
    assert (event["all_day"], event["starts_at"]) == (True, "2026-11-25T00:00:00Z")

    google.change("primary", appointment("p1", day=26))
    google.change("primary", {"id": "p2", "status": "cancelled"})
    google.change("team", appointment("t1"))
    google.take()
    calendar.ok("sync_now")
    asked = [a.query.get("syncToken") for a in google.take() if a.path.endswith("/events")]
    assert set(asked) == {"4", "1"}
    assert names() == ["p0", "p0_x", "p1", "t0", "t1"]
    assert events(external_id="p1")[0]["starts_at"] == "2026-11-26T11:00:00Z"
    # The tokens are too old: everything is listed again, and what is on no page is gone.
    google.oldest_change = 10
    del google.copied["primary"]["p1"]
    google.copied["team"]["t2"] = appointment("t2")
    calendar.ok("sync_now")
    assert names() == ["p0", "p0_x", "t0", "t1", "t2"]
    google.oldest_change = 0

    hide = {"calendarExternalId": "team", "visibility": "metadata"}
    assert calendar.ok("update_calendar_visibility", hide) == hide
    google.change("team", appointment("t3"))
    calendar.ok("sync_now")
    hidden = events(calendar_external_id="team")
    assert {(e["summary"], e["attendees"]) for e in hidden} == {(None, None)}
    assert all(e["starts_at"] for e in hidden)
    assert len(hidden) == 4
    calendar.ok("update_calendar_visibility", {**hide, "visibility": "share_everything"})
    calendar.ok("sync_now")
    shown = events(calendar_external_id="team")
    assert sorted(e["summary"] for e in shown) == [f"about t{n}" for n in range(4)]
    nowhere = {**hide, "calendarExternalId": "nowhere"}
    assert calendar.fails("update_calendar_visibility", nowhere)["code"] == "NOT_FOUND"
    wrong = calendar.raw("update_calendar_visibility", {**hide, "visibility": "some"})
    assert wrong.status_code == 400

    # A calendar one may see but not read does not hold up the others; one that is left goes.
    google.change("primary", appointment("p5"))
    google.forbidden = {"team"}
    calendar.ok("sync_now")
    assert "p5" in names()
    google.calendar_ids.remove("team")
    calendar.ok("sync_now")
    assert names() == ["p0", "p0_x", "p5"]


def letter(number, **headers):
    message = EmailMessage()
    values = {
        "From": "Bo <bo@mail.test>",
        "To": "sam@mail.test",
        "Subject": f"No {number}",
        "Message-ID": f"<{number}@mail.test>",
        "Date": "Tue, 24 Nov 2026 10:00:00 +0100",
        **headers,
    }
    for name, value in values.items():
        message[name] = value
    message.set_content("hi")
    return message.as_bytes()


def test_a_mailbox_is_copied_and_followed(shared_platform, sam, tmp_path):
    box = Caller(sam, "imap_smtp")
    found = lambda: ids(shared_platform, "imap_smtp")  # noqa: E731
    with running_mailbox(tmp_path) as server:
        inbox = server.folders["INBOX"]
        inbox.update({number: letter(number) for number in range(10, 40)})
        inbox[5] = letter(5, Subject="OLD")
        server.folders["Gesendet"][1] = letter(1001, **{"In-Reply-To": "<10@mail.test>"})
        body = {"credentials": server.credentials()}
        assert sam.post("/integrations/imap_smtp/auth/credentials", json=body).status_code == 200
        assert box.ok("sync_now") == {"triggered": False}
        begun = box.ok("sync_connect")
        assert begun["handle"] == server.credentials()["username"]
        box.ok("sync_now")
        expected = sorted([*(f"INBOX:{n}" for n in range(10, 40)), "Gesendet:1"])
        assert found() == expected
        threads = copies(shared_platform, "imap_smtp", "threads")
        assert len(threads) == 30
        (one,) = copies(shared_platform, "imap_smtp", "messages", external_id="INBOX:10")
        assert (one["subject"], one["flags"], one["snippet"]) == ("No 10", ["\\Seen"], "hi")
        assert one["internal_date"] == "2026-11-24T09:00:00Z"

        del inbox[11]
        inbox[40] = letter(40, Date="not a date", Subject="=?x?q?=")
        server.flags[12] = "\\Seen \\Flagged"
        # A server that says no has not said that the folder is empty.
        server.refused = "(UID FLAGS)"
        assert box.fails("sync_now")["code"] == "TEMPORARY_ERROR"
        assert len(found()) == 32
        server.refused = ""
        assert box.fails("sync_now")["retryAfter"] > time.time() * 1000
        box.ok("sync_connect")
        assert found() == sorted({*expected, "INBOX:40"} - {"INBOX:11"})
        (one,) = copies(shared_platform, "imap_smtp", "messages", external_id="INBOX:12")
        assert one["flags"] == ["\\Seen", "\\Flagged"]

        # A folder is renamed: the same messages, whatever their folder is called.
        server.folders["Sent Items"] = server.folders.pop("Gesendet")
        inbox[41] = letter(41)
        box.ok("sync_now")
        assert {"INBOX:41", "Sent Items:1"} <= set(found())
        assert len(copies(shared_platform, "imap_smtp", "messages")) == 32

        # Other uids for the same messages.
        server.validity = 4712
        moved = {number + 100: raw for number, raw in inbox.items() if number > 5}
        inbox.clear()
        inbox.update(moved)
        box.ok("sync_now")
        assert found() == sorted(["Sent Items:1", *(f"INBOX:{n}" for n in moved)])
        assert box.ok("sync_disconnect") == {}
