"""Approvals in chats (contract part 40, sections 1.12 and 7.5; check 15)."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.platform import Platform
from tests.fakes.model_server import Call, ModelServer
from tests.fakes.telegram import FakeTelegram
from tests.support.agents import install_agent
from tests.support.api import ApiClient
from tests.support.channels import Bot

pytestmark = pytest.mark.usefixtures("agents")

LONG = "x_y*" * 600
WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": LONG}})
SUPERVISED = {
    "mode": "supervised",
    "policies": [{"action": "mutate", "entity": "notes", "requires": "approval"}],
}


def asked(bot: Bot, telegram: FakeTelegram, model: ModelServer, words: str) -> dict[str, Any]:
    """Have the agent ask for an approval; return the message with its buttons."""
    model.call(WRITE)
    seen = len(telegram.sent())
    bot.tell(words)
    bot.worker.until(lambda: len(telegram.sent()) > seen)
    return telegram.sent()[-1]


def buttons(message: dict[str, Any]) -> dict[str, str]:
    rows = message["reply_markup"]["inline_keyboard"]
    return {button["text"]: button["callback_data"] for row in rows for button in row}


def notes(admin: ApiClient) -> list[dict[str, Any]]:
    return list(admin.get("/apps/stock/collections/notes").json)


def test_approvals_are_decided_in_the_chat(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    install_agent(platform, admin, supervision=SUPERVISED)
    other = admin.sign_up("other@example.com")
    admin.post("/roles", {"name": "staff", "permissions": ["app:stock:invoke"]})
    admin.post("/roles/assign", {"userId": other.user_id, "role": "staff"})
    bot.link(admin)
    bot.link(other, sender=8)

    message = asked(bot, telegram, model, "write it down")
    assert message["parse_mode"] == "Markdown"
    assert message["text"].startswith("The agent asks to use `mutate_data`:\n```\n{")
    assert message["text"].endswith("…\n```\nReason: policy: mutate on notes needs approval")
    assert len(message["text"]) < 1700
    press = buttons(message)
    assert list(press) == ["Approve", "Deny"]
    # Neither a stranger nor another user of the agent may decide; nonsense decides nothing.
    assert bot.press(press["Approve"], sender=9) == "You may not decide this."
    assert bot.press(press["Approve"], sender=8) == "You may not decide this."
    assert bot.press("approve:x") == "This request is already closed."
    assert bot.press("launch:x") == "This request is already closed."
    # The agent waits without a worker, and so does the next text.
    bot.tell("and this")
    bot.worker.step()
    typed = len(telegram.of("sendChatAction"))
    bot.worker.step()
    assert len(telegram.of("sendChatAction")) == typed
    assert notes(admin) == []
    model.say("Written.")
    model.say("Done, too.")
    assert bot.press(press["Approve"]) == "Approved"
    assert bot.press(press["Deny"]) == "This request is already closed."
    bot.worker.until(lambda: telegram.texts(7)[-1] == "Done, too.")
    assert telegram.texts(7)[-2] == "Written."
    assert [note["body"] for note in notes(admin)] == [LONG]

    press = buttons(asked(bot, telegram, model, "again"))
    model.say("As you wish.")
    assert bot.press(press["Deny"]) == "Denied"
    bot.worker.until(lambda: telegram.texts(7)[-1] == "As you wish.")
    seen = str(model.requests[-1].body["messages"][-1]["content"])
    assert "rejected: denied in chat" in seen

    # What is decided in the web interface goes on in the chat as well.
    press = buttons(asked(bot, telegram, model, "once more"))
    approval_id = press["Approve"].removeprefix("approve:")
    model.say("Approved elsewhere.")
    path = f"/apps/stock/agent/approvals/{approval_id}"
    assert admin.post(path, {"action": "approve"}).status_code == 200
    bot.worker.until(lambda: telegram.texts(7)[-1] == "Approved elsewhere.")
    assert bot.press(press["Approve"]) == "This request is already closed."
    assert len(notes(admin)) == 2
