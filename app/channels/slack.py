"""Slack: the Events API, slash commands, buttons, the Web API.

Source: REST contract part 40, section 7; docs.slack.dev.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import re
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from app.channels import incoming
from app.channels.client import Api, File, ProviderFailed
from app.channels.incoming import Incoming, Webhook, rejected
from app.core.errors import Invalid
from app.core.outgoing import LOOPBACK_HOSTS

JSONObject = dict[str, Any]  # Any: JSON values

NAME = "slack"
SECRETS = ("bot_token", "signing_secret")
REQUIRED = ("bot_token", "signing_secret")
TEXT_LIMIT = 3900
SHOWS_TYPING = False
ANSWERS_STAY = True
MAX_AGE_S = 300
FORM = "application/x-www-form-urlencoded"
MAX_CHALLENGE = 1000
FORM_METHODS = frozenset({"files.info"})  # Slack takes no JSON for methods that only read
FILES_HOST = ".slack.com"


def verify(hook: Webhook, secrets: dict[str, str]) -> None:
    """Pass if Slack signed a request within the last five minutes.

    Raises:
        Invalid: it did not.
    """
    secret = secrets.get("signing_secret", "")
    stamp = hook.headers.get("x-slack-request-timestamp", "")
    given = hook.headers.get("x-slack-signature", "")
    if not secret:
        raise rejected("no signing secret is set")
    if re.fullmatch(r"\d{1,12}", stamp) is None or abs(time.time() - int(stamp)) > MAX_AGE_S:
        raise rejected("timestamp is missing or too old")
    if not incoming.same(given, sign(secret, stamp, hook.body)):
        raise rejected("wrong signature")


def sign(secret: str, stamp: str, body: bytes) -> str:
    """Return Slack's signature of a body."""
    digest = hmac.new(secret.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256)
    return f"v0={digest.hexdigest()}"


def handshake(hook: Webhook) -> JSONObject | None:
    """Return the answer to Slack's test of the address, which it does not sign."""
    if _is_form(hook):
        return None
    try:
        body = incoming.json_body(hook)
    except Invalid:
        return None
    challenge = body.get("challenge")
    if body.get("type") != "url_verification" or not isinstance(challenge, str):
        return None
    return {"challenge": challenge[:MAX_CHALLENGE]}


def read(hook: Webhook, config: JSONObject, *, answers_to: str) -> Incoming | None:
    """Return what an event, command or button press says; None if it does not concern us.

    Args:
        hook: the request.
        config: of the channel.
        answers_to: what addresses to answer to must begin with.

    Raises:
        Invalid: it makes no sense, or its answer would go elsewhere.
    """
    if _is_form(hook):
        return _read_form(hook, answers_to)
    return _read_event(config, incoming.json_body(hook))


def _is_form(hook: Webhook) -> bool:
    return hook.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


def _read_form(hook: Webhook, answers_to: str) -> Incoming | None:
    try:
        form = incoming.clean(dict(parse_qsl(hook.body.decode(), strict_parsing=True)))
        payload = incoming.clean(json.loads(form["payload"])) if "payload" in form else None
    except (ValueError, RecursionError) as exc:
        raise rejected("body is not a valid form") from exc
    given = form if payload is None else payload
    if not isinstance(given, dict) or not isinstance(given.get("trigger_id"), str):
        raise rejected("trigger_id is missing")
    url = given.get("response_url") or ""
    if url and not (isinstance(url, str) and url.startswith(answers_to)):
        raise rejected("response_url is not allowed")
    if payload is not None:
        return _press(payload, url)
    return incoming.message(
        form["trigger_id"],
        chat=form.get("channel_id", ""),
        sender=form.get("user_id", ""),
        text=f"{form.get('command', '')} {html.unescape(form.get('text', ''))}",
        via={"response_url": url} if url else None,
    )


def _press(given: JSONObject, url: str) -> Incoming | None:
    actions = given.get("actions")
    first = actions[0] if isinstance(actions, list) and actions else {}
    value = first.get("value") if isinstance(first, dict) else None
    if not isinstance(value, str) or not url:
        return None
    message = _part(given, "message")
    chat = _chat(_part(given, "channel").get("id"), message.get("thread_ts"))
    sender = _text(_part(given, "user").get("id"))
    press = {"response_url": url}
    return incoming.button(given["trigger_id"], chat=chat, sender=sender, data=value, press=press)


def _read_event(config: JSONObject, body: JSONObject) -> Incoming | None:
    event_id, event = body.get("event_id"), body.get("event")
    if not isinstance(event_id, str) or not isinstance(event, dict):
        raise rejected("event_id or event is missing")
    sender = _text(event.get("user"))
    if event.get("bot_id") or sender == config.get("bot_user_id"):
        return None
    text = _text(event.get("text"))
    thread = event.get("thread_ts")
    if event.get("type") == "app_mention":
        thread, text = thread or event.get("ts"), _without_mention(text, config)
    elif not _is_direct(event):
        return None
    return incoming.message(
        event_id,
        chat=_chat(event.get("channel"), thread),
        sender=sender,
        text=html.unescape(text),
        media=_media(event),
    )


def _without_mention(text: str, config: JSONObject) -> str:
    bot = re.escape(config.get("bot_user_id") or "")
    return re.sub(rf"<@{bot}(\|[^>]*)?>\s*", "", text)


def _is_direct(event: JSONObject) -> bool:
    # A message with files is the one kind of message that has a subtype all the same.
    plain = event.get("subtype") in {None, "file_share"}
    return event.get("type") == "message" and event.get("channel_type") == "im" and plain


def _media(event: JSONObject) -> list[JSONObject]:
    files = event.get("files")
    return [
        {"kind": "file", "id": one["id"], "name": one.get("name"), "type": one.get("mimetype")}
        for one in (files if isinstance(files, list) else [])
        if isinstance(one, dict) and isinstance(one.get("id"), str)
    ]


def _part(given: JSONObject, name: str) -> JSONObject:
    found = given.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _chat(channel: object, thread: object) -> str:
    """Return a chat's name: the conversation, and the thread in it if there is one."""
    if not _text(channel):
        return ""
    return f"{channel}/{thread}" if _text(thread) else _text(channel)


# --- calls -----------------------------------------------------------------------------------


def call(api: Api, method: str, body: JSONObject) -> JSONObject:
    """Call a method of the Web API and return its answer.

    Raises:
        ProviderFailed: there was no answer, or a refusal.
    """
    headers = {"Authorization": f"Bearer {api.token}"}
    _, value = api.post(method, body, headers=headers, form=method in FORM_METHODS)
    if value.get("ok") is not True:
        reason = value.get("error") or f"no answer to {method}"
        raise ProviderFailed(api.clean(reason), refused="error" in value)
    return value


def activate(api: Api, webhook_url: str) -> JSONObject:
    """Prove the token; return what we learn about the bot. Repeating is safe.

    Raises:
        ProviderFailed: the token is refused, or nobody answers.
    """
    del webhook_url
    me = call(api, "auth.test", {})
    known = {"bot_user_id": "user_id", "bot_username": "user", "team_id": "team_id"}
    return {ours: me[theirs] for ours, theirs in known.items() if isinstance(me.get(theirs), str)}


def deactivate(api: Api) -> None:
    """Do nothing: the request address is kept in Slack's console, by hand."""
    del api


def link_url(config: JSONObject, token: str) -> str | None:
    """Return nothing: Slack has no address that starts a bot."""
    del config, token
    return None


def typing(api: Api, chat: str) -> None:
    """Do nothing: Slack shows nobody typing."""
    del api, chat


def send(api: Api, chat: str, data: JSONObject) -> None:
    """Send one entry of the outbox.

    Raises:
        ProviderFailed: it was not taken.
    """
    url = (data.get("press") or data.get("via") or {}).get("response_url")
    if url is not None:
        _respond(api, url, data)
        return
    channel, _, thread = chat.partition("/")
    body = {"channel": channel, **_content(data), **({"thread_ts": thread} if thread else {})}
    call(api, "chat.postMessage", body)


def _respond(api: Api, url: str, data: JSONObject) -> None:
    content = {**_content(data), "response_type": "ephemeral", "replace_original": False}
    answer, _ = api.send(url, content)
    if answer.status != 200:
        raise ProviderFailed(f"status {answer.status}", refused=True)


def _content(data: JSONObject) -> JSONObject:
    if data["kind"] == "approval":
        text = (
            f"The agent asks to use `{_escape(data['tool_name'])}`:\n"
            f"```\n{_escape(data['arguments'])}\n```\nReason: {_escape(data['reason'])}"
        )
    else:
        text = _escape(data["text"])
    if not data.get("buttons"):
        return {"text": text, "mrkdwn": not data.get("plain")}
    section = {"type": "section", "text": {"type": "mrkdwn", "text": text}}
    actions = [
        {"type": "actions", "elements": [_button(n + i, *b) for i, b in enumerate(group)]}
        for n, group in (
            (n, data["buttons"][n : n + 25]) for n in range(0, len(data["buttons"]), 25)
        )
    ]
    return {"text": text, "blocks": [section, *actions[:49]]}


def _button(number: int, label: str, data: str) -> JSONObject:
    text = {"type": "plain_text", "text": label[:75]}
    return {"type": "button", "action_id": f"b{number}", "text": text, "value": data}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def download(api: Api, media: JSONObject) -> File:
    """Fetch a file somebody sent.

    Raises:
        ProviderFailed: it cannot be had.
    """
    found = _part(call(api, "files.info", {"file": media["id"]}), "file")
    url = _text(found.get("url_private"))
    if not _holds_files(api, url):
        raise ProviderFailed("there is no such file", refused=True)
    answer = api.download(url, {"Authorization": f"Bearer {api.token}"})
    name = _text(found.get("name")) or "file"
    kind = _text(found.get("mimetype")) or "application/octet-stream"
    return File(name, kind, answer.body)


def _holds_files(api: Api, url: str) -> bool:
    """Tell whether our token may be sent to an address."""
    host = urlsplit(url).hostname or ""
    if host.endswith(FILES_HOST):
        return url.startswith("https://")
    return host in LOOPBACK_HOSTS and host == urlsplit(api.base).hostname
