"""Talking to agents in Slack (contract part 40, section 7; check 15)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.core.platform import Platform
from config.settings import Settings
from tests.fakes.model_server import Call, ModelServer
from tests.fakes.slack import SIGNING_SECRET, TOKEN, Failure, FakeSlack, Request
from tests.support.agents import install_agent
from tests.support.api import ApiClient, error
from tests.support.channels import PUBLIC_URL, ChannelWorker

pytestmark = pytest.mark.usefixtures("agents")

WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "<x> & y"}})
SUPERVISED = {
    "mode": "supervised",
    "policies": [{"action": "mutate", "entity": "notes", "requires": "approval"}],
}


@pytest.fixture
def settings(settings: Settings, slack: FakeSlack) -> Settings:
    """Slack is on loopback, too."""
    channels = replace(
        settings.channels, slack_api_base=slack.api, slack_response_prefix=slack.hooks
    )
    return replace(settings, channels=channels)


@dataclass
class Desk:
    """A Slack channel and what it is sent."""

    client: ApiClient
    slack: FakeSlack
    worker: ChannelWorker
    id: str

    def post(self, request: Request, **headers: str) -> Any:
        path = f"/channels/slack/{self.id}/webhook"
        sent = {**request.headers, **headers}
        return ApiClient(self.client.http).post(path, data=request.body, headers=sent)

    def take(self, request: Request) -> None:
        assert self.post(request).json == {"ok": True}

    def ask(self, request: Request) -> dict[str, Any]:
        """Deliver a message and return what is posted next."""
        seen = len(self.slack.sent())
        self.take(request)
        self.worker.until(lambda: len(self.slack.sent()) > seen)
        return self.slack.sent()[seen]

    def respond(self, request: Request) -> str:
        """Deliver a command or press and return the text of its response."""
        seen = len(self.slack.responses)
        self.take(request)
        self.worker.until(lambda: len(self.slack.responses) > seen)
        return str(self.slack.responses[seen][1]["text"])

    def link(self, client: ApiClient, sender: str = "UANN") -> None:
        link = client.post(f"/channels/{self.id}/link").json
        assert set(link) == {"token", "provider", "expiresIn"}
        answer = self.respond(self.slack.command("/link", link["token"], sender=sender))
        assert answer == "Your account is linked."


@pytest.fixture
def desk(platform: Platform, admin: ApiClient, slack: FakeSlack, stock: str) -> Desk:
    config = {"bot_token": TOKEN, "signing_secret": SIGNING_SECRET, "default_agent": stock}
    body = {"provider": "slack", "name": "Desk", "config": config}
    channel_id = admin.post("/channels", body).json["id"]
    url = {"public_url": PUBLIC_URL}
    assert admin.post(f"/channels/{channel_id}/activate", url).status_code == 200
    shown = admin.get("/channels").json[0]["config"]
    learned = {"bot_user_id": "UBOT", "bot_username": "deskbot", "team_id": "T1"}
    assert shown == {"default_agent": stock, **learned}
    return Desk(admin, slack, ChannelWorker(platform), channel_id)


def test_a_linked_user_talks_to_the_agent(
    platform: Platform, admin: ApiClient, desk: Desk, slack: FakeSlack, model: ModelServer
) -> None:
    assert desk.ask(slack.event("hello"))["text"].startswith("Please link your account first")
    desk.link(admin)
    assert desk.respond(slack.command("/link", "")) == "Send me a message to begin."
    model.say("1 &lt; 2 <b>")
    request = slack.event("is 1 &lt; 2 &amp; 3?")
    answer = desk.ask(request)
    assert (answer["channel"], answer["text"]) == ("DUANN", "1 &amp;lt; 2 &lt;b&gt;")
    assert model.requests[-1].body["messages"][-1]["content"] == "is 1 < 2 & 3?"
    desk.take(request)
    # What bots say, what is edited and what is said to others is none of our business.
    for ignored in (
        slack.event("x", bot_id="B1"),
        slack.event("x", user="UBOT"),
        slack.event("x", subtype="message_changed"),
        slack.event("x", channel_type="channel"),
        slack.event("x", type="reaction_added"),
    ):
        desk.take(ignored)
    assert desk.worker.step() == 0
    # A mention is answered in its thread, which is a conversation of its own.
    model.say("In the thread.")
    mention = {"type": "app_mention", "channel": "C1", "channel_type": "channel"}
    answer = desk.ask(slack.event("<@UBOT> and <@UBOB>?", **mention, ts="1700000001.0001"))
    assert answer["channel"] == "C1"
    assert answer["thread_ts"] == "1700000001.0001"
    assert model.requests[-1].body["messages"][-1]["content"] == "and <@UBOB>?"
    assert len(admin.get("/apps/stock/agent/sessions").json) == 2
    # Slack wants to be left alone for a while.
    slack.failures.extend([Failure(429, "ratelimited", {"Retry-After": "30"}), Failure(500)])
    model.say("word " * 1000)
    desk.take(slack.event("long"))

    def whole() -> bool:
        desk.worker.make_due()
        return " ".join(body["text"] for body in slack.sent()).count("word") == 1000

    desk.worker.until(whole)
    assert len(slack.sent()[-1]["text"]) <= 3900
    assert slack.complaints == []


def test_approvals_are_decided_with_buttons(
    platform: Platform, admin: ApiClient, desk: Desk, slack: FakeSlack, model: ModelServer
) -> None:
    install_agent(platform, admin, supervision=SUPERVISED)
    desk.link(admin)
    model.call(WRITE)
    message = desk.ask(slack.event("write"))
    section, actions = message["blocks"]
    assert "`mutate_data`" in section["text"]["text"]
    assert "&lt;x&gt; &amp; y" in section["text"]["text"]
    values = [element["value"] for element in actions["elements"]]
    assert [value.partition(":")[0] for value in values] == ["approve", "deny"]
    assert desk.respond(slack.press(values[0], sender="UEVE")) == "You may not decide this."
    model.say("Written.")
    assert desk.respond(slack.press(values[0])) == "Approved"
    assert desk.respond(slack.press(values[1])) == "This request is already closed."
    desk.worker.until(lambda: slack.sent()[-1]["text"] == "Written.")
    assert len(admin.get("/apps/stock/collections/notes").json) == 1
    choice = desk.respond(slack.command("/agent", ""))
    assert choice == "Choose an agent:"
    value = slack.responses[-1][1]["blocks"][1]["elements"][0]["value"]
    assert desk.respond(slack.press(value)) == "You are now talking to Stock keeper."
    desk.worker.settle()
    assert slack.sent()[-1]["text"] == "Written."
    assert slack.complaints == []


def test_files_become_attachments(
    admin: ApiClient, desk: Desk, slack: FakeSlack, model: ModelServer
) -> None:
    desk.link(admin)
    slack.files["F1"] = ("notes.txt", "text/plain", b"remember the milk")

    def share(name: str, **more: Any) -> Request:
        one = {"id": name, "name": "notes.txt", "mimetype": "text/plain"}
        return slack.event("what is this?", subtype="file_share", files=[one], **more)

    model.say("Milk.")
    assert desk.ask(share("F1"))["text"] == "Milk."
    assert "remember the milk" in str(model.requests[-1].body["messages"][-1]["content"])
    # Our token goes to Slack only, wherever a file claims to be.
    slack.files_at = "https://files.evil.example/F1"
    model.say("What a pity.")
    assert desk.ask(share("F1"))["text"] == "What a pity."
    asked = model.requests[-1].body["messages"][-1]["content"]
    assert asked == "what is this?\n[file notes.txt could not be fetched: there is no such file]"
    assert slack.complaints == []


def test_webhooks_are_checked(admin: ApiClient, desk: Desk, slack: FakeSlack) -> None:
    good = slack.event("hello")
    old = slack.signed(good.body, "application/json", age_s=301)
    late = slack.signed(good.body, "application/json", age_s=-310)
    assert error(desk.post(Request(good.body + b" ", good.headers))) == (
        400,
        "webhook rejected: wrong signature",
    )
    for request in (old, late, Request(good.body, {"Content-Type": "application/json"})):
        assert error(desk.post(request)) == (
            400,
            "webhook rejected: timestamp is missing or too old",
        )
    for body, said in (
        (b"{", "body is not valid JSON"),
        (b"[]", "body must be a JSON object"),
        (b"{}", "event_id or event is missing"),
    ):
        request = slack.signed(body, "application/json")
        assert error(desk.post(request)) == (400, f"webhook rejected: {said}")
    evil = {"response_url": "https://evil.example/x"}
    form = {"command": "/link", "trigger_id": "t", "user_id": "U", "channel_id": "D", **evil}
    for request in (slack.form(form), slack.press("approve:x", **evil)):
        assert error(desk.post(request)) == (
            400,
            "webhook rejected: response_url is not allowed",
        )
    assert error(desk.post(slack.form({"command": "/link"}))) == (
        400,
        "webhook rejected: trigger_id is missing",
    )
    # The test of the address is not signed, and asks nothing of the channel.
    admin.post(f"/channels/{desk.id}/deactivate")
    hello = json.dumps({"type": "url_verification", "challenge": "abc"}).encode()
    answer = desk.post(Request(hello, {"Content-Type": "application/json"}))
    assert answer.json == {"challenge": "abc"}
    assert desk.post(good).json == {"ok": True}
    assert error(desk.post(old))[0] == 400
    assert desk.worker.step() == 0
    fresh = {"provider": "slack", "name": "x", "config": {"bot_token": "xoxb-wrong"}}
    channel_id = admin.post("/channels", fresh).json["id"]
    path, url = f"/channels/{channel_id}/activate", {"public_url": PUBLIC_URL}
    assert error(admin.post(path, url)) == (400, "config field 'signing_secret' is required")
    config = {"config": {"signing_secret": "s"}}
    assert error(admin.post(path, {**url, **config})) == (400, "slack refused: invalid_auth")
