"""Chats on real web, worker and beat processes, against fake providers and a fake model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Platform
from tests.acceptance.test_agents import definition, prepare
from tests.fakes.model_server import Answer, Call, ModelServer, Seen, model_server
from tests.fakes.slack import SIGNING_SECRET, FakeSlack, Request
from tests.fakes.slack import TOKEN as BOT
from tests.fakes.telegram import TOKEN, FakeTelegram
from tests.support.stack import wait_until

WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}})


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def open_channel(platform: Platform, default_agent: str) -> str:
    """Create and activate a Telegram channel; return its path."""
    body = {"provider": "telegram", "name": "Desk", "config": {"default_agent": default_agent}}
    channel_id = platform.admin.post("/channels", json=body).json()["id"]
    activation = {"public_url": "https://trellis.example", "config": {"bot_token": TOKEN}}
    answer = platform.admin.post(f"/channels/{channel_id}/activate", json=activation)
    assert answer.status_code == 200, answer.text
    return f"/channels/telegram/{channel_id}/webhook"


def test_people_talk_to_agents_in_telegram(
    shared_platform: Platform, telegram: FakeTelegram, model: ModelServer
) -> None:
    prepare(
        shared_platform,
        model,
        "chatdesk",
        **{"agent.json": supervised()},
    )
    path = open_channel(shared_platform, "chatdesk")
    channel_id = path.split("/")[3]
    with shared_platform.stack.client() as provider:
        took: list[float] = []

        def deliver(update: dict[str, Any]) -> None:
            started = time.monotonic()
            answer = provider.post(path, json=update, headers=telegram.headers)
            took.append(time.monotonic() - started)
            assert (answer.status_code, answer.json()) == (200, {"ok": True}), answer.text

        def texts(sender: int) -> list[str]:
            return telegram.texts(sender)

        senders = range(700, 704)
        for sender in senders:
            token = shared_platform.admin.post(f"/channels/{channel_id}/link").json()["token"]
            deliver(telegram.message(f"/start {token}", sender=sender))
        wait_until(lambda: all(texts(s) == ["Your account is linked."] for s in senders))

        # However long the agent takes, the provider gets its answer at once.
        hold = threading.Event()
        model.script = lambda seen: echo(seen, hold)
        for number in range(5):
            for sender in senders:
                deliver(telegram.message(f"{sender}-{number}", sender=sender))
        assert not any(len(texts(sender)) > 1 for sender in senders)
        wait_until(lambda: telegram.of("sendChatAction"), what="typing")
        hold.set()
        wait_until(
            lambda: all(len(texts(sender)) == 6 for sender in senders), timeout=60, what="answers"
        )
        for sender in senders:
            assert texts(sender)[1:] == [f"echo {sender}-{number}" for number in range(5)]
        print(f"webhook: {len(took)} updates, slowest {max(took):.3f} s")

        model.call(WRITE)
        model.say("Written.")
        deliver(telegram.message("write", sender=700))
        wait_until(lambda: "reply_markup" in telegram.sent(700)[-1], what="buttons")
        buttons = telegram.sent(700)[-1]["reply_markup"]["inline_keyboard"]
        deliver(telegram.press(buttons[0][0]["callback_data"], sender=700))
        wait_until(lambda: texts(700)[-1] == "Written.", what="the answer")
    notes = shared_platform.admin.get("/apps/chatdesk/collections/notes").json()
    assert [note["body"] for note in notes] == ["x"]
    assert telegram.complaints == []
    assert shared_platform.admin.delete(f"/channels/{channel_id}").status_code == 200
    assert shared_platform.admin.delete("/apps/chatdesk").status_code == 200
    assert shared_platform.admin.delete("/llm-models/chatdesk").status_code == 204
    for name in ("web", "worker", "beat"):
        assert TOKEN not in shared_platform.stack.log(name)


def test_people_talk_to_agents_in_slack(
    shared_platform: Platform, slack: FakeSlack, model: ModelServer
) -> None:
    admin = shared_platform.admin
    prepare(shared_platform, model, "slackdesk", **{"agent.json": supervised()})
    config = {"default_agent": "slackdesk", "bot_token": BOT, "signing_secret": SIGNING_SECRET}
    body = {"provider": "slack", "name": "Desk", "config": config}
    channel_id = admin.post("/channels", json=body).json()["id"]
    url = {"public_url": "https://trellis.example"}
    assert admin.post(f"/channels/{channel_id}/activate", json=url).status_code == 200
    slack.files["F7"] = ("list.txt", "text/plain", b"seven eggs")
    with shared_platform.stack.client() as provider:

        def deliver(request: Request) -> None:
            path = f"/channels/slack/{channel_id}/webhook"
            answer = provider.post(path, content=request.body, headers=request.headers)
            assert (answer.status_code, answer.json()) == (200, {"ok": True}), answer.text

        token = admin.post(f"/channels/{channel_id}/link").json()["token"]
        deliver(slack.command("/link", token))
        wait_until(lambda: slack.responses, what="the link")
        model.say("Seven.")
        one = {"id": "F7", "name": "list.txt", "mimetype": "text/plain"}
        deliver(slack.event("how many?", subtype="file_share", files=[one]))
        wait_until(lambda: [m["text"] for m in slack.sent()] == ["Seven."], what="an answer")
        assert "seven eggs" in str(model.requests[-1].body["messages"][-1]["content"])
        model.call(WRITE)
        model.say("Written.")
        deliver(slack.event("write"))
        wait_until(lambda: "blocks" in slack.sent()[-1], what="buttons")
        approve = slack.sent()[-1]["blocks"][1]["elements"][0]["value"]
        deliver(slack.press(approve, sender="UEVE"))
        deliver(slack.press(approve))
        wait_until(lambda: slack.sent()[-1]["text"] == "Written.", what="the answer")
    said = [response["text"] for _, response in slack.responses]
    assert said[0] == "Your account is linked."
    assert sorted(said[1:]) == ["Approved", "You may not decide this."]
    notes = admin.get("/apps/slackdesk/collections/notes").json()
    assert [note["body"] for note in notes] == ["x"]
    assert slack.complaints == []
    assert admin.delete(f"/channels/{channel_id}").status_code == 200
    assert admin.delete("/apps/slackdesk").status_code == 200
    assert admin.delete("/llm-models/slackdesk").status_code == 204
    for name in ("web", "worker", "beat"):
        assert BOT not in shared_platform.stack.log(name)


def supervised() -> str:
    policy = {"action": "mutate", "entity": "notes", "requires": "approval"}
    return definition(supervision={"mode": "supervised", "policies": [policy]})


def echo(seen: Seen, hold: threading.Event) -> Answer:
    question = seen.body["messages"][-1]["content"]
    return Answer(text=[f"echo {question}"], hold=hold)
