"""Mail messages: composing them, and reading the parts people look at."""

from __future__ import annotations

import base64
import binascii
import email.policy
import email.utils
import mimetypes
from collections.abc import Iterable, Mapping
from email.message import EmailMessage, Message
from email.parser import BytesParser
from typing import Any

from connector import MISCONFIGURED, ServiceError

JSONObject = dict[str, Any]  # Any: JSON values

POLICY = email.policy.SMTP.clone(max_line_length=998)
MAX_MESSAGE_BYTES = 35 * 1024 * 1024


def addresses(value: object) -> list[str]:
    """Return the addresses of an input: a text with commas, or an array of texts.

    Raises:
        ServiceError: something in it is no address.
    """
    texts = [value] if isinstance(value, str) else [str(item) for item in as_list(value)]
    found = []
    for name, address in email.utils.getaddresses([text for text in texts if text.strip()]):
        if "@" not in address or any(c in address for c in "\r\n"):
            raise ServiceError(MISCONFIGURED, f"not a mail address: {address or name}")
        found.append(email.utils.formataddr((name, address)))
    return found


def as_list(value: object) -> list[Any]:  # Any: JSON values
    """Return an array as it is, nothing as an empty one, anything else as its only element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def compose(
    given: Mapping[str, Any],
    *,
    sender: str | None,
    text: str | None,
    html: str | None,
    domain: str | None = None,
) -> EmailMessage:
    """Return a message with a new id.

    Args:
        given: ``to``, ``cc``, ``bcc``, ``subject``, ``inReplyTo``, ``references``,
            ``attachments``.
        sender: the ``From`` header.
        text: the plain body.
        html: the HTML body.
        domain: right side of the message id.

    Raises:
        ServiceError: no recipient, a bad address or attachment, or too large.
    """
    message = EmailMessage(POLICY)
    if sender:
        message["From"] = _one_line(sender)
    _address(message, given)
    message["Subject"] = _one_line(str(given.get("subject") or ""))
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain=domain or "trellis.invalid")
    if given.get("inReplyTo"):
        message["In-Reply-To"] = _one_line(str(given["inReplyTo"]))
    references = " ".join(str(item) for item in as_list(given.get("references")))
    if references:
        message["References"] = _one_line(references)
    if text is None and html is not None:
        message.set_content(html, subtype="html")
    else:
        message.set_content(text or "")
        if html is not None:
            message.add_alternative(html, subtype="html")
    for attachment in as_list(given.get("attachments")):
        _attach(message, attachment)
    if len(message.as_bytes()) > MAX_MESSAGE_BYTES:
        raise ServiceError(MISCONFIGURED, "the message is larger than 35 MB")
    return message


def _address(message: EmailMessage, given: Mapping[str, Any]) -> None:
    recipients = {name: addresses(given.get(name)) for name in ("to", "cc", "bcc")}
    if not any(recipients.values()):
        raise ServiceError(MISCONFIGURED, "at least one recipient is needed")
    for name, found in recipients.items():
        if found:
            message[name.capitalize()] = ", ".join(found)


def _attach(message: EmailMessage, attachment: Mapping[str, Any]) -> None:
    name = _one_line(str(attachment["filename"]))
    guessed = mimetypes.guess_type(name)[0]
    kind = str(attachment.get("contentType") or guessed or "application/octet-stream")
    main, _, sub = kind.partition("/")
    try:
        content = base64.b64decode(str(attachment["content"]), validate=True)
    except binascii.Error:
        raise ServiceError(MISCONFIGURED, f"attachment '{name}' is not base64") from None
    message.add_attachment(content, maintype=main, subtype=sub or "octet-stream", filename=name)


def _one_line(text: str) -> str:
    """Return a header value; line ends would begin another header."""
    return " ".join(text.split())


def parse(raw: bytes) -> EmailMessage:
    """Return a message from its bytes, however broken."""
    parsed = BytesParser(policy=email.policy.default).parsebytes(raw)
    assert isinstance(parsed, EmailMessage)  # noqa: S101 - what the default policy makes
    return parsed


def header(message: Message, name: str) -> str | None:
    """Return a header as text, or None."""
    try:
        value = message[name]
    except (ValueError, IndexError, AttributeError):
        return None
    return None if value is None else str(value).strip()


def people(message: Message, name: str) -> list[JSONObject]:
    """Return the addresses of a header."""
    pairs = email.utils.getaddresses([header(message, name) or ""])
    return [{"name": n or None, "address": a} for n, a in pairs if a]


def references(message: Message) -> list[str]:
    """Return the ids of the messages a message refers to."""
    return (header(message, "References") or "").split()


def date(message: Message) -> str | None:
    """Return the date as RFC 3339, or None."""
    try:
        return email.utils.parsedate_to_datetime(header(message, "Date") or "").isoformat()
    except (TypeError, ValueError):
        return None


def leaves(message: Message) -> Iterable[Message]:
    """Return the parts that hold content."""
    return (part for part in message.walk() if not part.is_multipart())


def text_of(part: Message) -> str:
    """Return the text of a part, whatever its character set claims."""
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def bodies(message: Message) -> tuple[str | None, str | None]:
    """Return the first plain and the first HTML text that are no attachments."""
    found: dict[str, str] = {}
    for part in leaves(message):
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment"
        if kind in {"text/plain", "text/html"} and not attached and kind not in found:
            found[kind] = text_of(part)
    return found.get("text/plain"), found.get("text/html")


def attachments(message: Message) -> list[JSONObject]:
    """Return the parts with a file name or marked as attachment, without their content."""
    found = []
    for part in leaves(message):
        disposition = part.get_content_disposition()
        name = part.get_filename()
        if disposition != "attachment" and name is None:
            continue
        content = part.get_payload(decode=True)
        found.append(
            {
                "filename": name,
                "mimeType": part.get_content_type(),
                "size": len(content) if isinstance(content, bytes) else 0,
                "contentId": (header(part, "Content-ID") or "").strip("<>") or None,
                "disposition": disposition,
            }
        )
    return found
