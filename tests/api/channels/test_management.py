"""Making, switching on and off, deleting channels (contract part 40, section 7.2; check 14)."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from app.core.platform import Platform
from tests.fakes.telegram import TOKEN, Failure, FakeTelegram
from tests.support.api import ApiClient, error
from tests.support.channels import PUBLIC_URL

URL = {"public_url": PUBLIC_URL}


def make(admin: ApiClient, **body: object) -> dict[str, str]:
    answer = admin.post("/channels", {"provider": "telegram", "name": "Desk", **body})
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


def shown(admin: ApiClient, channel_id: str) -> dict[str, object]:
    return next(c for c in admin.get("/channels").json if c["id"] == channel_id)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"provider": "email", "name": "x"}, "unsupported provider 'email'"),
        ({"name": "x"}, "field 'provider' is required"),
        ({"provider": "slack"}, "field 'name' is required"),
        ({"provider": "slack", "name": "  "}, "name must be 1 to 120 characters"),
        ({"provider": "slack", "name": "x" * 121}, "name must be 1 to 120 characters"),
        ({"provider": "slack", "name": "x", "config": []}, "field 'config' must be an object"),
        (
            {"provider": "slack", "name": "x", "config": {"signing_secret": 5}},
            "config field 'signing_secret' must be a string",
        ),
    ],
)
def test_bad_channels_are_refused(admin: ApiClient, body: dict[str, object], said: str) -> None:
    assert error(admin.post("/channels", body)) == (400, said)
    assert admin.get("/channels").json == []


def test_a_channel_is_made_activated_and_removed(
    platform: Platform, admin: ApiClient, telegram: FakeTelegram
) -> None:
    config = {"bot_token": TOKEN, "webhook_secret": "mine", "password": "hunter2"}
    made = make(admin, config=config)
    later = make(admin, provider="slack", name="Later")
    path = f"/channels/{made['id']}"
    assert [c["name"] for c in admin.get("/channels").json] == ["Later", "Desk"]
    assert shown(admin, made["id"])["config"] == {"default_agent": "assistant"}
    assert shown(admin, made["id"])["status"] == "inactive"
    assert made["webhook_secret"] != "mine"

    assert error(admin.post(f"{path}/activate")) == (400, "public_url is required")
    assert error(admin.post(f"{path}/activate", {"public_url": "ftp://x"})) == (
        400,
        "field 'public_url' must be a URL",
    )
    assert error(admin.post(f"/channels/{later['id']}/activate", URL)) == (
        400,
        "config field 'bot_token' is required",
    )
    assert error(admin.post(f"/channels/{admin.user_id}/activate", URL)) == (
        404,
        "channel not found",
    )
    assert error(admin.post("/channels/x/activate", URL))[0] == 400

    answer = admin.post(f"{path}/activate", {**URL, "config": {"webhook_secret": "mine"}})
    url = f"{PUBLIC_URL}/api/v1/channels/telegram/{made['id']}/webhook"
    assert answer.json == {"status": "active", "webhook_url": url}
    assert telegram.webhook == {
        "url": url,
        "secret_token": made["webhook_secret"],
        "allowed_updates": ["message", "callback_query"],
    }
    commands = telegram.of("setMyCommands")[0]["commands"]
    assert [c["command"] for c in commands] == ["newsession", "agent", "link"]
    assert shown(admin, made["id"])["config"] == {
        "default_agent": "assistant",
        "bot_username": "desk_bot",
    }
    assert admin.post(f"{path}/activate", URL).json["status"] == "active"

    assert admin.post(f"{path}/deactivate").json == {"status": "inactive"}
    assert telegram.webhook is None
    assert admin.post(f"{path}/deactivate").json == {"status": "inactive"}
    telegram.failures["deleteWebhook"].append(Failure(drop=True))
    assert admin.post(f"{path}/activate", URL).status_code == 200
    assert admin.delete(path).json == {"status": "ok"}
    assert admin.delete(path).json == {"status": "ok"}
    assert error(admin.post(f"{path}/deactivate")) == (404, "channel not found")
    assert error(admin.get(f"{path}/identity")) == (404, "channel not found")
    with platform.engine.connect() as connection:
        scope = {"scope": f"channel:{made['id']}"}
        left = "SELECT count(*) FROM trellis.secrets WHERE scope = :scope"
        assert connection.execute(text(left), scope).scalar_one() == 0


def test_a_failed_activation_keeps_what_it_was_told(
    platform: Platform, admin: ApiClient, telegram: FakeTelegram
) -> None:
    made = make(admin)
    path = f"/channels/{made['id']}/activate"
    wrong = {"bot_token": "123:wrong-token", "default_agent": "stock"}
    answer = admin.post(path, {**URL, "config": wrong})
    assert error(answer) == (400, "telegram refused: Unauthorized")
    assert shown(admin, made["id"])["config"] == {"default_agent": "stock"}
    assert shown(admin, made["id"])["status"] == "inactive"
    telegram.failures["getMe"].append(Failure(drop=True))
    telegram.failures["setWebhook"].append(Failure(400, f"bad token {TOKEN}"))
    for said in ((500, "telegram cannot be reached"), (400, "telegram refused: bad token ***")):
        assert error(admin.post(path, {**URL, "config": {"bot_token": TOKEN}})) == said
    assert shown(admin, made["id"])["status"] == "inactive"
    assert admin.post(path, URL).status_code == 200
    with platform.engine.connect() as connection:
        tables = ("channels", "channel_inbox", "channel_outbox")
        dump = "".join(
            json.dumps([list(map(str, row)) for row in connection.execute(text(query))])
            for query in (f"SELECT * FROM trellis.{table}" for table in tables)
        )
    assert TOKEN not in dump
    assert made["webhook_secret"] not in dump
