"""Integrations of the catalog as deployed code on real processes, against fakes on loopback."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from tests.fakes import notion as notion_fake
from tests.fakes.mail_servers import PASSWORD, running_mailbox
from tests.fakes.rest import serving
from tests.support.integrations import Caller, deploy


def logs_of(platform):
    return "".join(platform.stack.log(name) for name in platform.stack.processes)


# --- mail ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory):
    with running_mailbox(tmp_path_factory.mktemp("tls")) as box:
        yield box


@pytest.fixture(scope="module")
def mail(shared_platform, mailbox):
    deploy(shared_platform.admin, "imap_smtp")
    caller = Caller(shared_platform.admin, "imap_smtp")
    assert caller.raw("get_folders").json() == {"error": "not connected to 'imap_smtp'"}
    start = shared_platform.admin.post("/integrations/imap_smtp/auth/start").json()
    assert start["type"] == "credentials"
    assert start["schema"]["properties"]["password"]["secret"] is True
    stored = shared_platform.admin.post(
        "/integrations/imap_smtp/auth/credentials", json={"credentials": mailbox.credentials()}
    )
    assert stored.status_code == 200, stored.text
    return caller


def incoming():
    message = EmailMessage()
    message["From"] = "Bo <bo@mail.test>"
    message["To"] = "ana@mail.test, Cy <cy@mail.test>"
    message["Subject"] = "Grüße – an order"
    message["Message-ID"] = "<m1@mail.test>"
    message["In-Reply-To"] = "<m0@mail.test>"
    message["References"] = "<a@mail.test> <m0@mail.test>"
    message["Date"] = "Tue, 24 Nov 2026 10:00:00 +0100"
    message.set_content("Zwölf, please.")
    message.add_alternative("<p>Zwölf, please.</p>", subtype="html")
    message.add_attachment(b"%PDF-1", maintype="application", subtype="pdf", filename="order.pdf")
    return message.as_bytes(policy=policy.SMTP)


def test_mail_is_read_and_sent(mail, mailbox, shared_platform):
    mailbox.folders["INBOX"].update({7: incoming(), 9: b"Subject: =?x?q?=\r\n\r\nbroken \xff"})
    folders = mail.ok("get_folders")["folders"]
    assert [(f["path"], f["specialUse"]) for f in folders] == [
        ("INBOX", None),
        ("Entwürfe", None),
        ("Gesendet", "\\Sent"),
    ]
    assert mail.ok("list_emails") == {
        "messageUids": [7, 9],
        "uidValidity": 4711,
        "highestUid": 9,
    }
    assert mail.ok("list_emails", {"sinceUid": 9})["messageUids"] == []
    assert mail.ok("list_emails", {"folder": "Entwürfe"})["messageUids"] == []
    read = mail.ok("get_email", {"uid": 7})
    assert read["subject"] == "Grüße – an order"
    assert read["from"] == {"name": "Bo", "address": "bo@mail.test"}
    assert [p["address"] for p in read["to"]] == ["ana@mail.test", "cy@mail.test"]
    assert (read["headerMessageId"], read["inReplyTo"]) == ("<m1@mail.test>", "<m0@mail.test>")
    assert read["references"] == ["<a@mail.test>", "<m0@mail.test>"]
    assert read["bodyText"].strip() == "Zwölf, please."
    assert read["bodyHtml"].strip() == "<p>Zwölf, please.</p>"
    assert read["attachments"][0] | {"size": 6} == {
        "filename": "order.pdf",
        "mimeType": "application/pdf",
        "size": 6,
        "contentId": None,
        "disposition": "attachment",
    }
    assert read["flags"] == ["\\Seen"]
    assert mail.ok("get_email", {"uid": 9})["bodyText"].startswith("broken")

    sent = mail.ok(
        "send_email",
        {"to": "Bo <bo@mail.test>", "bcc": "cy@mail.test", "subject": "Re: Grüße", "body": "Danke"},
    )
    assert sent["ok"] is True
    envelope = mailbox.sent[-1]
    assert sorted(envelope.rcpt_tos) == ["bo@mail.test", "cy@mail.test"]
    delivered = message_from_bytes(envelope.content, policy=policy.default)
    assert delivered["Subject"] == "Re: Grüße"
    assert delivered["Message-ID"] == sent["messageId"]
    assert delivered["Bcc"] is None
    copy = message_from_bytes(next(iter(mailbox.folders["Gesendet"].values())))
    assert copy["Message-ID"] == sent["messageId"]


def test_mail_failures_have_codes_and_kill_the_login(mail, mailbox, shared_platform):
    assert mail.fails("get_email", {"uid": 4000})["code"] == "NOT_FOUND"
    assert mail.fails("list_emails", {"folder": "Nowhere"})["code"] == "NOT_FOUND"
    assert mail.ok("sync_now") == {"triggered": False}
    message = {"to": "nobody@mail.test", "subject": "x", "body": "x"}
    assert mail.fails("send_email", message)["code"] == "UNKNOWN"
    assert mail.fails("send_email", {**message, "to": "not an address"})["code"] == "MISCONFIGURED"
    refused = mail.raw("get_email", {"uid": "7"})
    assert refused.status_code == 400
    assert refused.json() == {"error": "input: $.uid: must be of type integer"}
    assert mail.raw("fly").json() == {"error": "action 'fly' not found"}

    def connect(label, **other):
        body = {"credentials": mailbox.credentials(**other), "label": label}
        stored = shared_platform.admin.post("/integrations/imap_smtp/auth/credentials", json=body)
        return {"connection_id": stored.json()["connectionId"]}

    strict = connect("strict", allowInsecureTls=False)
    error = mail.fails("get_folders", params=strict)
    assert error["code"] == "UNKNOWN"
    assert "certificate" in error["message"]
    closed = connect("closed", imapPort=1)
    assert mail.fails("get_folders", params=closed)["code"] == "TEMPORARY_ERROR"
    wrong = connect("wrong", password="not it, surely")
    assert mail.fails("get_folders", params=wrong)["code"] == "INSUFFICIENT_PERMISSIONS"
    rows = shared_platform.admin.get("/integrations/imap_smtp/connections").json()
    dead = next(row for row in rows if row["id"] == wrong["connection_id"])
    assert (dead["status"], bool(dead["lastError"])) == ("dead", True)
    assert mail.raw("get_folders", params=wrong).status_code == 409
    status = shared_platform.admin.get("/integrations/imap_smtp/auth").json()
    assert status == {"connected": True, "connectionCount": 3, "deadCount": 1}
    for secret in (PASSWORD, "not it, surely"):
        assert secret not in logs_of(shared_platform)


# --- notion ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace():
    fake = notion_fake.FakeNotion()
    with serving(fake):
        yield fake


@pytest.fixture(scope="module")
def notion(shared_platform, workspace):
    token = deploy(shared_platform.admin, "notion")
    caller = Caller(shared_platform.admin, "notion")
    assert caller.raw("search").json() == {"error": "integration 'notion' is not configured"}
    again = deploy(
        shared_platform.admin, "notion", apiToken=notion_fake.TOKEN, apiBaseUrl=workspace.url
    )
    assert token == again
    return caller


MARKDOWN = """# Plan

Some **bold** and *thin* text with `code` and a [link](https://example.com/a).

- one
- two

1. first

- [x] done
- [ ] open

> said

```python
x = 1
```

---"""


def test_notion_pages_and_entries(notion, workspace):
    page = notion.ok("create_page", {"parentId": "root", "title": "Plan", "markdown": MARKDOWN})
    read = notion.ok("get_page", {"pageId": page["id"]})
    assert (read["title"], read["url"]) == ("Plan", page["url"])
    assert read["markdown"] == MARKDOWN
    long = "\n\n".join(f"line {n}" for n in range(250))
    notion.ok("update_page", {"pageId": page["id"], "markdown": long})
    assert notion.ok("get_page", {"pageId": page["id"]})["markdown"] == long

    values = {
        "Name": "Big deal",
        "Amount": 12.5,
        "Done": True,
        "Stage": "Won",
        "Tags": ["a", "b"],
        "Due": {"start": "2026-01-01", "end": "2026-01-02"},
        "Link": "https://example.com",
    }
    entry = notion.ok("create_entry", {"databaseId": notion_fake.DATABASE, "properties": values})
    assert notion.ok("get_page", {"pageId": entry["id"]})["properties"] == values
    notion.ok("update_entry", {"pageId": entry["id"], "properties": {"Amount": 13, "Tags": []}})
    notion.ok(
        "create_page",
        {"parentId": notion_fake.SOURCE, "parentType": "database", "title": "Second"},
    )
    first = notion.ok("query_database", {"databaseId": notion_fake.SOURCE, "pageSize": 1})
    assert (first["results"][0]["properties"]["Amount"], first["hasMore"]) == (13, True)
    query = {"databaseId": notion_fake.SOURCE, "startCursor": first["nextCursor"]}
    assert [r["title"] for r in notion.ok("query_database", query)["results"]] == ["Second"]
    schema = notion.ok("get_database_schema", {"databaseId": notion_fake.DATABASE})
    assert (schema["title"], schema["properties"]["Stage"]["type"]) == ("Deals", "select")
    assert notion.ok("list_databases")["databases"][0]["title"] == "Deals"
    assert notion.ok("search", {"query": "deal", "filter": "page"})["results"]
    assert notion.ok("add_comment", {"pageId": entry["id"], "text": "hm"}) == {"id": "comment-1"}
    assert notion.ok("trash_page", {"pageId": entry["id"]}) == {"ok": True}
    assert workspace.pages[entry["id"]]["in_trash"] is True
    wrong = {"databaseId": notion_fake.DATABASE, "properties": {"Nope": 1}}
    assert notion.fails("create_entry", wrong)["message"] == "there is no property 'Nope'"


def test_webhooks_reach_the_worker(notion, shared_platform):
    admin = shared_platform.admin
    listed = admin.get("/apps/notion/webhooks").json()
    hook = next(entry for entry in listed if entry["name"] == "page_created")
    with shared_platform.stack.client() as outside:
        body = {"type": "page.created", "entity": {"id": "p"}}
        named = outside.post(f"/hooks/{hook['token']}", json=body)
        assert (named.status_code, named.json()) == (200, {"event": "page.created", "data": body})
        own = admin.post("/integrations/catalog/notion/deploy").json()["webhookToken"]
        plain = outside.post(f"/hooks/{own}", content=b"verification")
        assert (plain.status_code, plain.json()) == (200, {"skipped": True})
        assert outside.post(f"/hooks/{own}x", json=body).json() == {"error": "unknown webhook"}


def test_notion_failures(notion, workspace, shared_platform):
    assert notion.fails("get_page", {"pageId": "gone"})["code"] == "NOT_FOUND"
    workspace.take()
    workspace.tell(429, {"message": "slow down"}, Retry_After="1")
    workspace.tell(502, b"<html>")
    assert notion.ok("list_databases")["hasMore"] is False
    assert [asked.path for asked in workspace.take()] == ["/v1/search"] * 3
    workspace.tell(429, {"message": "slow down"}, Retry_After="3600")
    error = notion.fails("list_databases")
    assert (error["code"], error["message"]) == ("TEMPORARY_ERROR", "slow down")
    assert error["retryAfter"] > 1_600_000_000_000
    workspace.take()
    # A request that may have had an effect is not repeated.
    workspace.tell(500, {"message": "oops"})
    page = {"parentId": "root", "title": "x"}
    assert notion.fails("create_page", page)["code"] == "TEMPORARY_ERROR"
    assert len(workspace.take()) == 1
    workspace.tell(200, b'{"object": "page", ')
    error = notion.fails("create_page", page)
    assert (error["code"], error["message"]) == (
        "TEMPORARY_ERROR",
        "the service's answer is not JSON",
    )
    assert len(workspace.take()) == 1
    shared_platform.admin.put("/integrations/notion/config", json={"apiToken": "wrong-token-x"})
    assert notion.fails("search") == {
        "code": "INSUFFICIENT_PERMISSIONS",
        "message": "API token is invalid.",
        "status": 401,
    }
    shared_platform.admin.put("/integrations/notion/config", json={"apiToken": notion_fake.TOKEN})
    assert notion_fake.TOKEN not in logs_of(shared_platform)
