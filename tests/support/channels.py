"""Channels in tests: what providers deliver, and a worker that does what beat asks for.

The worker gets its work from the sweep alone, as if every message to Celery had been lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from werkzeug.test import TestResponse

from app.channels import upkeep
from app.channels.messages import ShowTyping
from app.core.platform import Platform
from tasks import base, registry
from tests.fakes.telegram import TOKEN, FakeTelegram
from tests.support.api import ApiClient

PUBLIC_URL = "https://trellis.example"
assert registry.MODULES  # importing it declares the tasks


@dataclass
class ChannelWorker:
    """Runs the tasks' bodies for whatever is due."""

    platform: Platform
    typing: bool = True

    def step(self) -> int:
        """Do what is due once; return how much that was."""
        with self.platform.uow() as uow:
            messages = upkeep.due(uow, age=timedelta())
        bodies = {d.message.name: d.body for d in base.DEFINITIONS}
        for message in messages:
            if self.typing or not isinstance(message, ShowTyping):
                bodies[message.name](self.platform, **message.arguments())
        return sum(not isinstance(message, ShowTyping) for message in messages)

    def until(self, condition: Callable[[], Any], timeout: float = 20.0) -> Any:
        """Work until a condition holds; return its value."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < end, "timed out"
            self.step()
            time.sleep(0.01)
        return value

    def settle(self) -> None:
        """Work until nothing is due any more."""
        end = time.monotonic() + 20
        while self.step():
            assert time.monotonic() < end, "timed out"

    def make_due(self) -> None:
        """Let the time pass that failed messages wait for their next attempt."""
        with self.platform.engine.begin() as connection:
            connection.execute(text("UPDATE trellis.channel_outbox SET due_at = now()"))


@dataclass
class Bot:
    """A Telegram channel: what people write to it, and what it answers."""

    client: ApiClient
    fake: FakeTelegram
    worker: ChannelWorker
    id: str

    def post(self, update: dict[str, Any], **headers: str) -> TestResponse:
        """Deliver an update as Telegram does."""
        path = f"/channels/telegram/{self.id}/webhook"
        return ApiClient(self.client.http).post(
            path, update, headers={**self.fake.headers, **headers}
        )

    def tell(self, words: str | None, *, sender: int = 7, **more: Any) -> dict[str, Any]:
        """Write a message without waiting for anything; return the update."""
        update = self.fake.message(words, sender=sender, **more)
        answer = self.post(update)
        assert (answer.status_code, answer.json) == (200, {"ok": True}), answer.data
        return update

    def press(self, data: str, *, sender: int = 7, chat: int | None = None) -> str:
        """Press a button and return the answer to the press."""
        seen = len(self.fake.of("answerCallbackQuery"))
        assert self.post(self.fake.press(data, sender=sender, chat=chat)).status_code == 200
        self.worker.until(lambda: len(self.fake.of("answerCallbackQuery")) > seen)
        return str(self.fake.of("answerCallbackQuery")[-1]["text"])

    def ask(self, words: str | None, *, sender: int = 7, **more: Any) -> str:
        """Write a message and return the next answer in that chat."""
        seen = len(self.fake.sent(sender))
        self.tell(words, sender=sender, **more)
        self.worker.until(lambda: len(self.fake.sent(sender)) > seen)
        return self.fake.texts(sender)[seen]

    def link(self, client: ApiClient, *, sender: int = 7) -> None:
        """Link a sender to a client's user."""
        token = client.post(f"/channels/{self.id}/link").json["token"]
        assert self.ask(f"/start {token}", sender=sender) == "Your account is linked."


def open_bot(
    platform: Platform, client: ApiClient, fake: FakeTelegram, default_agent: str = "stock"
) -> Bot:
    """Create and activate a Telegram channel."""
    body = {"provider": "telegram", "name": "Desk", "config": {"default_agent": default_agent}}
    channel_id = client.post("/channels", body).json["id"]
    answer = client.post(
        f"/channels/{channel_id}/activate",
        {"public_url": PUBLIC_URL, "config": {"bot_token": TOKEN}},
    )
    assert answer.status_code == 200, answer.json
    return Bot(client, fake, ChannelWorker(platform), channel_id)
