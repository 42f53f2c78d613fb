"""Gmail's messages as people read them."""

from __future__ import annotations

import base64
import email.utils
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from connector import JSONObject

TAGS = re.compile(r"<(style|script)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)


def parsed(message: Mapping[str, Any]) -> JSONObject:
    """Return Gmail's message as people read it."""
    payload = message["payload"]
    headers = headers_of(payload)
    texts = dict(bodies(payload))
    rich, plain = texts.get("text/html"), texts.get("text/plain")
    senders = people(headers.get("from"))
    return {
        "id": message["id"],
        "threadId": message.get("threadId"),
        "headerMessageId": headers.get("message-id"),
        "internalDate": message.get("internalDate"),
        "from": senders[0] if senders else None,
        "to": people(headers.get("to")),
        "cc": people(headers.get("cc")),
        "bcc": people(headers.get("bcc")),
        "replyTo": people(headers.get("reply-to")),
        "inReplyTo": headers.get("in-reply-to"),
        "references": (headers.get("references") or "").split(),
        "subject": headers.get("subject"),
        "date": headers.get("date"),
        "snippet": html.unescape(message.get("snippet") or ""),
        "labelIds": message.get("labelIds") or [],
        "bodyHtml": rich,
        "bodyText": plain if plain is not None else text_of(rich),
        "attachments": [attachment(part) for part in leaves(payload) if part.get("filename")],
    }


def leaves(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return the parts that hold content."""
    inner = part.get("parts") or ()
    if not inner:
        yield part
    for child in inner:
        yield from leaves(child)


def bodies(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return type and text of the text parts, the first of a type last."""
    for part in reversed(list(leaves(payload))):
        data = (part.get("body") or {}).get("data")
        if (
            part.get("mimeType") in {"text/plain", "text/html"}
            and data
            and not part.get("filename")
        ):
            yield part["mimeType"], decoded(data).decode("utf-8", "replace")


def attachment(part: Mapping[str, Any]) -> JSONObject:
    """Return what is known of an attachment without its content."""
    headers = headers_of(part)
    body = part.get("body") or {}
    inline = (headers.get("content-disposition") or "").lower().startswith("inline")
    return {
        "id": body.get("attachmentId"),
        "filename": part.get("filename"),
        "mimeType": part.get("mimeType"),
        "size": body.get("size") or 0,
        "contentId": (headers.get("content-id") or "").strip("<>") or None,
        "isInline": inline,
    }


def decoded(data: str) -> bytes:
    """Return the bytes of base64 in the URL alphabet, padded or not."""
    return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))


def headers_of(part: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a part by lower-case name; the first of a name counts."""
    found: dict[str, str] = {}
    for header in part.get("headers") or ():
        found.setdefault(header["name"].lower(), header["value"])
    return found


def people(header: str | None) -> list[JSONObject]:
    """Return the addresses of a header."""
    pairs = email.utils.getaddresses([header or ""])
    return [{"name": name or None, "address": address} for name, address in pairs if address]


def text_of(rich: str | None) -> str | None:
    """Return HTML without its tags."""
    return None if rich is None else html.unescape(TAGS.sub(" ", rich)).strip()
