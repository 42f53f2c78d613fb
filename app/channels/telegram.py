"""Telegram's Bot API.

Source: REST contract part 40, section 7; core.telegram.org/bots/api.
"""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import quote

from app.channels import incoming
from app.channels.client import TIMEOUT_S, Api, File, ProviderFailed
from app.channels.incoming import Incoming, Webhook, rejected

JSONObject = dict[str, Any]  # Any: JSON values

NAME = "telegram"
SECRETS = ("bot_token",)
REQUIRED = ("bot_token",)
TEXT_LIMIT = 4096
SHOWS_TYPING = True
ANSWERS_STAY = False
SECRET_HEADER = "x-telegram-bot-api-secret-token"  # noqa: S105 - the name of a header
COMMANDS = (
    ("newsession", "Start a new session"),
    ("agent", "Choose an agent"),
    ("link", "Link your account"),
)
MEDIA = ("audio", "voice", "document")
MAX_CALLBACK_DATA = 64
MAX_CALLBACK_TEXT = 200
TYPING_TIMEOUT_S = 3.0


def verify(hook: Webhook, secrets: dict[str, str]) -> None:
    """Pass if a request knows the secret Telegram was given.

    Raises:
        Invalid: it does not.
    """
    expected = secrets.get("webhook_secret", "")
    given = hook.headers.get(SECRET_HEADER, "")
    if not expected or not incoming.same(given, expected):
        raise rejected("wrong secret token")


def handshake(hook: Webhook) -> JSONObject | None:
    """Return nothing: Telegram just begins."""
    del hook
    return None


def read(hook: Webhook, config: JSONObject, *, answers_to: str) -> Incoming | None:
    """Return what an update says; None if it does not concern us.

    Raises:
        Invalid: it is no update.
    """
    del config, answers_to
    body = incoming.json_body(hook)
    event_id = body.get("update_id")
    if not isinstance(event_id, int):
        raise rejected("update_id is missing")
    if isinstance(body.get("message"), dict):
        return _message(str(event_id), body["message"])
    if isinstance(body.get("callback_query"), dict):
        return _press(str(event_id), body["callback_query"])
    return None


def _message(event_id: str, given: JSONObject) -> Incoming | None:
    chat, sender = _part(given, "chat"), _part(given, "from")
    if chat.get("type") != "private" or sender.get("is_bot"):
        return None
    text = given.get("text") or given.get("caption") or ""
    return incoming.message(
        event_id,
        chat=_id(chat),
        sender=_id(sender),
        text=text if isinstance(text, str) else "",
        media=_media(given),
    )


def _press(event_id: str, given: JSONObject) -> Incoming | None:
    chat, sender = _part(_part(given, "message"), "chat"), _part(given, "from")
    if not isinstance(given.get("data"), str):
        return None
    return incoming.button(
        event_id,
        chat=_id(chat),
        sender=_id(sender),
        data=given["data"],
        press={"id": str(given.get("id", ""))},
    )


def _part(given: JSONObject, name: str) -> JSONObject:
    found = given.get(name)
    return found if isinstance(found, dict) else {}


def _id(given: JSONObject) -> str:
    found = given.get("id")
    return str(found) if isinstance(found, int) else ""


def _media(given: JSONObject) -> list[JSONObject]:
    found: list[JSONObject] = []
    photos = [p for p in given.get("photo") or () if isinstance(p, dict)]
    if photos:
        largest = max(photos, key=lambda p: p.get("width", 0) * p.get("height", 0))
        found.append({"kind": "photo", "id": largest.get("file_id"), "type": "image/jpeg"})
    for kind in MEDIA:
        part = _part(given, kind)
        if part:
            one = {"kind": kind, "id": part.get("file_id"), "name": part.get("file_name")}
            found.append({**one, "type": part.get("mime_type")})
    return [one for one in found if isinstance(one["id"], str)]


# --- calls -----------------------------------------------------------------------------------


def call(
    api: Api, method: str, body: JSONObject, *, timeout_s: float = TIMEOUT_S
) -> Any:  # Any: a JSON value
    """Call a method of the Bot API and return its result.

    Raises:
        ProviderFailed: there was no answer, or a refusal.
    """
    _, value = api.post(f"bot{api.token}/{method}", body, timeout_s=timeout_s)
    if value.get("ok") is not True:
        reason = value.get("description") or f"no answer to {method}"
        raise ProviderFailed(api.clean(reason), refused="description" in value)
    return value.get("result")


def activate(api: Api, webhook_url: str) -> JSONObject:
    """Point the bot at us; return what we learn about it. Repeating is safe.

    Raises:
        ProviderFailed: the token or the address is refused, or nobody answers.
    """
    me = call(api, "getMe", {})
    commands = [{"command": name, "description": text} for name, text in COMMANDS]
    call(api, "setMyCommands", {"commands": commands})
    hook = {
        "url": webhook_url,
        "secret_token": api.secrets["webhook_secret"],
        "allowed_updates": ["message", "callback_query"],
    }
    call(api, "setWebhook", hook)
    username = me.get("username") if isinstance(me, dict) else None
    return {"bot_username": username} if isinstance(username, str) else {}


def deactivate(api: Api) -> None:
    """Stop updates from coming.

    Raises:
        ProviderFailed: Telegram did not hear it.
    """
    call(api, "deleteWebhook", {})


def link_url(config: JSONObject, token: str) -> str | None:
    """Return the address that opens the bot with a link token."""
    username = config.get("bot_username")
    return f"https://t.me/{quote(username)}?start={token}" if username else None


def typing(api: Api, chat: str) -> None:
    """Show for five seconds that the bot is busy.

    Raises:
        ProviderFailed: Telegram did not hear it.
    """
    body = {"chat_id": int(chat), "action": "typing"}
    call(api, "sendChatAction", body, timeout_s=TYPING_TIMEOUT_S)


def send(api: Api, chat: str, data: JSONObject) -> None:
    """Send one entry of the outbox.

    Raises:
        ProviderFailed: it was not taken.
    """
    if data["kind"] == "press":
        text = data["text"][:MAX_CALLBACK_TEXT]
        call(api, "answerCallbackQuery", {"callback_query_id": data["press"]["id"], "text": text})
        return
    body: JSONObject = {"chat_id": int(chat), "text": data.get("text", "")}
    formatted: JSONObject = {}
    if data["kind"] == "approval":
        body["text"], formatted["text"] = _question(data), _question(data, marked=True)
    if data.get("buttons"):
        body["reply_markup"] = {"inline_keyboard": _keyboard(data["buttons"])}
    if data.get("plain"):
        call(api, "sendMessage", body)
        return
    try:
        call(api, "sendMessage", {**body, **formatted, "parse_mode": "Markdown"})
    except ProviderFailed as exc:
        if not exc.refused or "parse entities" not in exc.reason:
            raise
        call(api, "sendMessage", body)


def _keyboard(buttons: list[list[str]]) -> list[list[JSONObject]]:
    return [
        [{"text": label, "callback_data": data}]
        for label, data in buttons
        if len(data.encode()) <= MAX_CALLBACK_DATA
    ]


def _question(data: JSONObject, *, marked: bool = False) -> str:
    name, given, reason = data["tool_name"], data["arguments"], data["reason"]
    if marked:
        name = f"`{name.replace('`', '')}`"
        given = f"```\n{given.replace('`', chr(39))}\n```"
        for char in "_*`[":
            reason = reason.replace(char, f"\\{char}")
    return f"The agent asks to use {name}:\n{given}\nReason: {reason}"


def download(api: Api, media: JSONObject) -> File:
    """Fetch a file somebody sent.

    Raises:
        ProviderFailed: it cannot be had.
    """
    found = call(api, "getFile", {"file_id": media["id"]})
    path = found.get("file_path") if isinstance(found, dict) else None
    if not isinstance(path, str):
        raise ProviderFailed("there is no such file", refused=True)
    answer = api.download(f"{api.base}/file/bot{api.token}/{quote(path)}")
    name = media.get("name") or path.rsplit("/", 1)[-1]
    kind = media.get("type") or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return File(name, kind, answer.body)
