"""Talking to agents in Telegram (contract part 40, section 7; check 15)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import text

from app.core.platform import Platform
from tests.fakes.model_server import Answer, Call, ModelServer
from tests.fakes.telegram import Failure, FakeTelegram
from tests.support.agents import install_agent
from tests.support.api import ApiClient, error
from tests.support.channels import Bot

pytestmark = pytest.mark.usefixtures("agents")

HINT = (
    "Please link your account first: open Channels in the web interface, choose "
    '"Link my account" and follow the link.'
)
WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}})


def rows(platform: Platform, query: str) -> list[Any]:
    with platform.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_a_linked_user_talks_to_the_agent(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    assert bot.ask("hello") == HINT
    assert rows(platform, "SELECT count(*) FROM trellis.agent_runs") == [(0,)]
    link = admin.post(f"/channels/{bot.id}/link").json
    assert link["linkUrl"] == f"https://t.me/desk_bot?start={link['token']}"
    assert link["expiresIn"] == 300
    assert bot.ask(f"/start {link['token']}") == "Your account is linked."
    assert bot.ask(f"/link {link['token']}") == "This link is invalid or has expired."
    assert admin.get(f"/channels/{bot.id}/identity").json == {"linked": True}

    model.say("Two *boxes*.")
    assert bot.ask("how many?") == "Two *boxes*."
    model.say("Still two_boxes.")
    update = bot.tell("and now?")
    bot.post(update)
    bot.worker.until(lambda: telegram.texts()[-1] == "Still two_boxes.")
    bot.worker.settle()
    # A repeated update did nothing; broken Markdown went out as plain text.
    assert telegram.texts()[-2:] == ["Two *boxes*.", "Still two_boxes."]
    assert "parse_mode" not in telegram.sent()[-1]
    assert telegram.sent()[-2]["parse_mode"] == "Markdown"
    assert [s["turn_count"] for s in admin.get("/apps/stock/agent/sessions").json] == [2]

    assert bot.ask("/newsession@desk_bot") == "A new session has started."
    model.say("Hello again.")
    assert bot.ask("hi") == "Hello again."
    assert len(admin.get("/apps/stock/agent/sessions").json) == 2
    # What was said is kept by the agent's sessions only.
    assert rows(platform, "SELECT DISTINCT data::text FROM trellis.channel_inbox") == [("{}",)]
    assert rows(platform, "SELECT count(*) FROM trellis.channel_outbox") == [(0,)]


def test_nobody_hears_what_agents_have_nothing_to_say_about(
    admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    bot.link(admin)
    model.say()
    model.say("Next.")
    bot.tell("say nothing")
    assert bot.ask("say something") == "Next."
    # Groups, other bots, stickers and empty texts are none of our business.
    group = {"chat": {"id": -5, "type": "group"}}
    for update in (
        telegram.message("hello", **group),
        telegram.message(None, sticker={"file_id": "s"}),
        telegram.message("   "),
        {"update_id": 1, "edited_message": {}},
    ):
        assert bot.post(update).json == {"ok": True}
    assert bot.worker.step() == 0
    model.answers.clear()
    model.say(status=400)
    answer = bot.ask("break")
    assert answer.startswith("Something went wrong: model provider error: ")
    model.say("Fine.")
    assert bot.ask("and now?") == "Fine."


def test_webhooks_are_checked(
    admin: ApiClient, bot: Bot, telegram: FakeTelegram, client: ApiClient
) -> None:
    path, update = f"/channels/telegram/{bot.id}/webhook", telegram.message("hello")
    wrong = {"X-Telegram-Bot-Api-Secret-Token": "wrong"}
    for headers in ({}, wrong, {"Authorization": f"Bearer {admin.token}"}):
        assert error(client.post(path, update, headers=headers)) == (
            400,
            "webhook rejected: wrong secret token",
        )
    for other in (path.replace("telegram", "slack"), path.replace(bot.id, "x")):
        answer = client.post(other, update, headers=telegram.headers)
        assert error(answer) == (404, "channel not found")
    good = telegram.headers
    assert error(client.post(path, {}, headers=good)) == (
        400,
        "webhook rejected: update_id is missing",
    )
    assert error(client.post(path, data="{", headers=good)) == (
        400,
        "webhook rejected: body is not valid JSON",
    )
    assert bot.worker.step() == 0
    # A bot that is switched off hears nothing, and still knows its provider.
    assert admin.post(f"/channels/{bot.id}/deactivate").json == {"status": "inactive"}
    secret = admin.post("/channels", {"provider": "telegram", "name": "x"}).json
    assert error(client.post(path, update, headers=wrong))[0] == 400
    other = f"/channels/telegram/{secret['id']}/webhook"
    header = {"X-Telegram-Bot-Api-Secret-Token": secret["webhook_secret"]}
    assert client.post(other, update, headers=header).json == {"ok": True}
    assert bot.worker.step() == 0


def test_agents_are_chosen_by_those_who_may_use_them(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    install_agent(
        platform, admin, {"appId": "hr", "name": "HR", "dataContract": []}, name="HR_desk"
    )
    ann = admin.sign_up("ann@example.com")
    admin.post("/roles", {"name": "staff", "permissions": ["app:hr:invoke"]})
    admin.post("/roles/assign", {"userId": ann.user_id, "role": "staff"})
    bob = admin.sign_up("bob@example.com")
    assert bot.ask("/agent", sender=8) == HINT
    bot.link(ann, sender=8)
    bot.link(bob, sender=9)
    assert bot.ask("/agent", sender=9) == "No agent is available to you."
    assert bot.ask("/agent stock keeper", sender=9) == "There is no such agent."
    assert bot.ask("hello", sender=9) == "You may not use this agent."
    assert bot.ask("hello", sender=8) == "You may not use this agent."
    assert admin.get("/apps/stock/agent/sessions").json == []

    assert bot.ask("/agent", sender=8) == "Choose an agent:"
    keyboard = telegram.sent(8)[-1]["reply_markup"]["inline_keyboard"]
    assert keyboard == [[{"text": "HR_desk", "callback_data": "agent:hr"}]]
    assert bot.press("agent:stock", sender=8) == "There is no such agent."
    assert bot.press("agent:hr", sender=8) == "You are now talking to HR_desk."
    bot.worker.settle()
    assert telegram.texts(8)[-1] == "You are now talking to HR_desk."
    model.say("Welcome.")
    assert bot.ask("hello", sender=8) == "Welcome."
    assert bot.ask("/newsession", sender=8) == "A new session has started."
    assert bot.ask("/agent hr_DESK", sender=8) == "You are now talking to HR_desk."
    model.say("Back.")
    assert bot.ask("hello", sender=8) == "Back."
    # Whoever loses the permission loses the agent, whatever the session says.
    admin.delete("/roles/staff")
    assert bot.ask("hello", sender=8) == "You may not use this agent."


def test_links_move_and_end(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    live = "SELECT count(*) FROM trellis.agent_delegations WHERE revoked_at IS NULL"
    boss = admin.sign_up("boss@example.com")
    admin.post("/roles/assign", {"userId": boss.user_id, "role": "admin"})
    bot.link(admin)
    model.say("one")
    assert bot.ask("a") == "one"
    bot.link(boss)
    assert admin.get(f"/channels/{bot.id}/identity").json == {"linked": False}
    assert rows(platform, live) == [(1,)]
    model.say("two")
    assert bot.ask("b") == "two"
    # Another person, another session.
    owners = [s["user_id"] for s in admin.get("/apps/stock/agent/sessions").json]
    assert owners == [boss.user_id, admin.user_id]
    bot.link(boss, sender=8)
    # Another channel's token is no good here, and stays good there.
    other = admin.post("/channels", {"provider": "telegram", "name": "other"}).json["id"]
    assert error(admin.post(f"/channels/{other}/link")) == (404, "channel not found")
    assert boss.delete(f"/channels/{bot.id}/identity").json == {"status": "unlinked"}
    assert error(boss.delete(f"/channels/{bot.id}/identity")) == (
        404,
        "not linked to this channel",
    )
    assert rows(platform, live) == [(0,)]
    assert (bot.ask("c"), bot.ask("d", sender=8)) == (HINT, HINT)
    # Agents that go and come back.
    bot.link(admin)
    model.say("three")
    assert bot.ask("e") == "three"
    assert admin.delete("/agents/stock").status_code == 200
    assert bot.ask("f") == "The agent is not available."
    install_agent(platform, admin)
    model.say("four")
    assert bot.ask("g") == "four"
    # Users who go take their links along.
    bot.link(boss, sender=8)
    assert admin.delete(f"/users/{boss.user_id}").status_code in {200, 204}
    assert bot.ask("h", sender=8) == HINT


def test_texts_wait_for_their_turn(
    admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    bot.link(admin)
    hold = threading.Event()
    model.say("first", hold=hold)
    bot.tell("1")
    bot.worker.until(lambda: model.requests)
    for number in range(2, 25):
        bot.tell(str(number))
        bot.worker.step()
    bot.worker.until(lambda: "Please wait, I am still working." in telegram.texts())
    assert "first" not in telegram.texts()
    assert telegram.of("sendChatAction")[0] == {"chat_id": 7, "action": "typing"}
    model.script = lambda seen: _echo(seen.body["messages"][-1]["content"])
    hold.set()
    bot.worker.until(lambda: "echo 21" in telegram.texts())
    bot.worker.settle()
    answers = [words for words in telegram.texts() if words.startswith("echo")]
    assert answers == [f"echo {n}" for n in range(2, 22)]


def _echo(words: Any) -> Any:
    if isinstance(words, list):
        words = words[0]["text"]
    return Answer(text=[f"echo {words}"])


def test_long_texts_come_and_go_in_parts(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    bot.link(admin)
    model.script = lambda seen: _echo(seen.body["messages"][-1]["content"])
    words = "word " * 600

    def arrived(offset: str) -> None:
        with platform.engine.begin() as connection:
            query = (
                "UPDATE trellis.channel_inbox SET received_at = now() + :o WHERE state='waiting'"
            )
            connection.execute(text(query), {"o": offset})

    bot.tell("a" * 4096)
    arrived("1 hour")
    bot.worker.step()
    assert model.requests == []
    bot.tell(words)
    arrived("0")
    bot.tell("own", caption="ignored")
    bot.worker.until(lambda: "echo own" in telegram.texts())
    question = model.requests[0].body["messages"][-1]["content"]
    assert question == "a" * 4096 + "\n" + words.strip()
    parts = telegram.texts()[1:-1]
    assert " ".join(parts).split() == f"echo {question}".split()
    # Without a continuation it is only a matter of time.
    bot.tell("b" * 4096)
    arrived("-3 seconds")
    bot.worker.until(lambda: telegram.texts()[-1].endswith("b"))


def test_what_cannot_be_sent_is_tried_again(
    admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    bot.link(admin)
    broken = [
        Failure(500),
        Failure(429, "Too Many Requests", {"retry_after": 30}),
        Failure(drop=True),
    ]
    telegram.failures["sendMessage"].extend(broken)
    model.say("Made it.")
    bot.tell("hello")
    for attempt in range(1, 4):
        bot.worker.until(lambda n=attempt: len(telegram.of("failed sendMessage")) == n)
        bot.worker.step()
        waits = rows(bot.worker.platform, "SELECT due_at > now() FROM trellis.channel_outbox")
        assert waits == [(True,)]
        bot.worker.make_due()
    bot.worker.until(lambda: telegram.texts()[-1] == "Made it.")
    # The fourth failure is the last one; what comes behind it is not held up.
    telegram.failures["sendMessage"].extend(Failure(500) for _ in range(4))
    model.say("Lost.")
    model.say("Found.")
    bot.tell("and this?")
    bot.tell("and that?")

    def sent() -> bool:
        bot.worker.make_due()
        return telegram.texts()[-1] == "Found."

    bot.worker.until(sent)
    assert "Lost." not in telegram.texts()
    messages = admin.get("/apps/stock/agent/sessions").json
    assert messages[0]["turn_count"] == 3


def test_files_become_attachments(
    admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    bot.link(admin)
    telegram.files["big"] = ("photo.png", b"\x89PNG big")
    telegram.files["notes"] = ("notes.txt", b"remember the milk")
    sizes = [
        {"file_id": "small", "width": 90, "height": 60},
        {"file_id": "big", "width": 1280, "height": 720},
    ]
    model.say("I see.")
    assert bot.ask(None, caption="what is this?", photo=sizes) == "I see."
    picture, question = model.requests[-1].body["messages"][-1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert question["text"] == "what is this?"

    document = {"file_id": "notes", "file_name": "notes.txt", "mime_type": "text/plain"}
    model.say("Milk.")
    assert bot.ask(None, document=document) == "Milk."
    assert "remember the milk" in str(model.requests[-1].body["messages"][-1]["content"])
    stored = rows(bot.worker.platform, "SELECT name, app_id, uploaded_by FROM trellis.files")
    assert {row[0] for row in stored} == {"photo.png", "notes.txt"}
    assert {(row[1], str(row[2])) for row in stored} == {("stock", admin.user_id)}

    # What cannot be had is named, and the rest is asked all the same.
    telegram.failures["getFile"].append(Failure(400, "Bad Request: file is too big"))
    model.say("What a pity.")
    assert bot.ask(None, caption="listen", voice={"file_id": "v"}) == "What a pity."
    asked = model.requests[-1].body["messages"][-1]["content"]
    assert asked == "listen\n[voice could not be fetched: Bad Request: file is too big]"
