"""What providers deliver, in one form for all of them."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import Invalid

JSONObject = dict[str, Any]  # Any: JSON values

MAX_ID = 200
ORDERED = ("text", "command")
PICK = "agent:"


@dataclass(frozen=True, slots=True)
class Webhook:
    """One request of a provider. Header names are lower case."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """One thing somebody did in a chat.

    Attributes:
        kind: ``text``, ``command`` (handled in order with texts) or ``decision``.
        data: ``text`` and ``media`` of a text; ``name`` and ``argument`` of a command; ``data``
            and ``press`` of a button; ``via``: where the answer goes instead of the chat.
    """

    event_id: str
    chat: str
    sender: str
    kind: str
    data: JSONObject = field(default_factory=dict)


def rejected(reason: str) -> Invalid:
    """Return the error of a request that did not come from the provider, or makes no sense."""
    return Invalid(f"webhook rejected: {reason}")


def same(given: str, expected: str) -> bool:
    """Compare two texts without telling by the time it takes where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def json_body(hook: Webhook) -> JSONObject:
    """Return the JSON object a provider sent.

    Raises:
        Invalid: it is none.
    """
    try:
        value = clean(json.loads(hook.body))
    except (ValueError, RecursionError) as exc:
        raise rejected("body is not valid JSON") from exc
    if not isinstance(value, dict):
        raise rejected("body must be a JSON object")
    return value


def clean(value: Any) -> Any:  # Any: a JSON value
    """Return a value without the characters that Postgres keeps out of texts."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "ignore").decode()
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean(item) for name, item in value.items()}
    return value


def message(
    event_id: str,
    *,
    chat: str,
    sender: str,
    text: str,
    media: Sequence[JSONObject] = (),
    via: JSONObject | None = None,
) -> Incoming | None:
    """Return a text or a command; None when there is nothing in it.

    Args:
        event_id: the provider's id of the event.
        chat: where.
        sender: who.
        text: what; commands begin with a slash and may carry ``@botname``.
        media: files, in the provider's words.
        via: what an answer needs besides the chat.
    """
    text = text.strip()
    if not chat or not sender or max(len(chat), len(sender)) > MAX_ID:
        return None
    more = {"via": via} if via else {}
    words = text.split(maxsplit=1)
    command = words[0].partition("@")[0].lower() if words else ""
    if command in {"/start", "/link", "/newsession", "/agent"} and not media:
        data = {"name": command, "argument": words[1] if len(words) > 1 else "", **more}
        return Incoming(event_id, chat, sender, "command", data)
    if not text and not media:
        return None
    return Incoming(event_id, chat, sender, "text", {"text": text, "media": list(media), **more})


def button(
    event_id: str, *, chat: str, sender: str, data: str, press: JSONObject
) -> Incoming | None:
    """Return the press of a button.

    Args:
        event_id: the provider's id of the event.
        chat: where.
        sender: who.
        data: what the button carries.
        press: what the provider needs to answer it.
    """
    if not chat or not sender or max(len(chat), len(sender)) > MAX_ID:
        return None
    kind = "command" if data.startswith(PICK) else "decision"
    given = {"name": "pick", "argument": data.removeprefix(PICK)} if kind == "command" else {}
    return Incoming(event_id, chat, sender, kind, {"data": data, "press": press, **given})
