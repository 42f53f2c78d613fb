"""Mail of any mailbox: IMAP for reading, SMTP for sending."""

from __future__ import annotations

import imaplib
import re
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mail
from connector import (
    NOT_FOUND,
    REJECTED,
    TEMPORARY,
    UNKNOWN,
    Call,
    JSONObject,
    ServiceError,
    dispatcher,
    no_sync,
)
from trellis_worker import serve

TIMEOUT_S = 12.0
IMAPS_PORT = 993
SMTPS_PORT = 465
FOLDER = re.compile(rb'\((?P<flags>[^)]*)\) (?:"[^"]*"|NIL) (?P<name>.*)', re.DOTALL)
UID = re.compile(rb"UID (\d+)")
FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
NUMBER = re.compile(rb"(\d+)")
SPECIAL = ("All", "Archive", "Drafts", "Flagged", "Junk", "Sent", "Trash")
SENT_NAMES = ("sent", "sent items", "sent mail", "inbox.sent", "inbox/sent")


# --- connections -----------------------------------------------------------------------------


def tls(credentials: JSONObject) -> ssl.SSLContext:
    """Return how certificates are checked: fully, unless the user asked for less."""
    context = ssl.create_default_context()
    if credentials.get("allowInsecureTls"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def mailbox(credentials: JSONObject) -> Iterator[imaplib.IMAP4]:
    """Log in by IMAP: TLS on port 993, else STARTTLS.

    Raises:
        ServiceError: the login is refused, or the server cannot be reached.
    """
    with failures("IMAP"), open_imap(credentials) as server:
        try:
            server.login(credentials["username"], credentials["password"])
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            raise ServiceError(REJECTED, "the IMAP server refused the login") from None
        yield server


def open_imap(credentials: JSONObject) -> imaplib.IMAP4:
    """Return a connection that nobody can listen to."""
    host, port = credentials["imapHost"], int(credentials.get("imapPort") or IMAPS_PORT)
    context = tls(credentials)
    if port == IMAPS_PORT:
        return imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=TIMEOUT_S)
    server = imaplib.IMAP4(host, port, timeout=TIMEOUT_S)
    try:
        server.starttls(context)
    except BaseException:
        # Saying goodbye over a broken connection would hide what went wrong.
        with suppress(OSError):
            server.shutdown()
        raise
    return server


@contextmanager
def failures(protocol: str) -> Iterator[None]:
    """Turn what the libraries raise into ``ServiceError``."""
    try:
        yield
    except ssl.SSLCertVerificationError as exc:
        text = f"the {protocol} server's certificate cannot be verified: {exc.verify_message}"
        raise ServiceError(UNKNOWN, text) from None
    except (imaplib.IMAP4.abort, smtplib.SMTPServerDisconnected) as exc:
        raise ServiceError(TEMPORARY, f"the {protocol} server hung up: {exc}") from None
    except smtplib.SMTPException as exc:
        raise smtp_failure(exc) from None
    except imaplib.IMAP4.error as exc:
        raise ServiceError(UNKNOWN, f"the {protocol} server refused: {exc}") from None
    except OSError as exc:
        text = f"the {protocol} server cannot be reached: {exc}"
        raise ServiceError(TEMPORARY, text) from None


def smtp_failure(exc: smtplib.SMTPException) -> ServiceError:
    """Return what an answer of an SMTP server means."""
    if isinstance(exc, smtplib.SMTPAuthenticationError):
        return ServiceError(REJECTED, "the SMTP server refused the login")
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in exc.recipients.values()]
        code = TEMPORARY if all(400 <= c < 500 for c in codes) else UNKNOWN
        return ServiceError(code, f"refused: {', '.join(exc.recipients)}")
    if isinstance(exc, smtplib.SMTPResponseException):
        code = TEMPORARY if 400 <= exc.smtp_code < 500 else UNKNOWN
        return ServiceError(code, f"the SMTP server answered {exc.smtp_code}")
    return ServiceError(UNKNOWN, f"the SMTP server refused: {exc}")


def select(server: imaplib.IMAP4, folder: str) -> None:
    """Open a folder for reading.

    Raises:
        ServiceError: there is none of that name.
    """
    if server.select(quoted(folder), readonly=True)[0] != "OK":
        raise ServiceError(NOT_FOUND, f"folder '{folder}' not found")


def quoted(folder: str) -> str:
    """Return a folder's name as IMAP writes it: modified UTF-7 in quotes."""
    encoded = b"".join(
        part.encode("ascii") if part.isascii() else b"&" + _shifted(part) + b"-"
        for part in re.findall(r"[ -~]+|[^ -~]+", folder.replace("&", "&-"))
    ).decode()
    escaped = encoded.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shifted(text: str) -> bytes:
    return text.encode("utf-7")[1:].rstrip(b"-").replace(b"/", b",")


def unquoted(raw: bytes) -> str:
    """Return the name of a folder from what IMAP writes."""
    text = raw.strip()
    if text.startswith(b'"') and text.endswith(b'"'):
        text = text[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\")

    def plain(match: re.Match[bytes]) -> bytes:
        if not match[1]:
            return b"&"
        return (b"+" + match[1].replace(b",", b"/") + b"-").decode("utf-7").encode()

    return re.sub(rb"&([^-]*)-", plain, text).decode("utf-8", "replace")


# --- actions ---------------------------------------------------------------------------------


def get_folders(call: Call) -> JSONObject:
    """Return the folders of the mailbox."""
    with mailbox(call.credentials) as server:
        return {"folders": folders(server)}


def folders(server: imaplib.IMAP4) -> list[JSONObject]:
    """Return path, name, special use and flags of every folder."""
    found = []
    for line in server.list()[1]:
        # A name that does not fit in quotes comes as a literal: a pair of line and name.
        head, name = line if isinstance(line, tuple) else (line, None)
        match = FOLDER.match(head or b"")
        if match is None:
            continue
        path = unquoted(name if name is not None else match["name"])
        flags = match["flags"].decode("ascii", "replace").split()
        special = next((s for s in SPECIAL if f"\\{s}" in flags), None)
        found.append(
            {
                "path": path,
                "name": re.split(r"[/.]", path)[-1] or path,
                "specialUse": None if special is None else f"\\{special}",
                "flags": flags,
            }
        )
    return found


def list_emails(call: Call) -> JSONObject:
    """Return the uids of a folder, oldest first."""
    since = int(call.input.get("sinceUid") or 0)
    with mailbox(call.credentials) as server:
        select(server, str(call.input.get("folder") or "INBOX"))
        validity = server.response("UIDVALIDITY")[1]
        found = server.uid("SEARCH", "UID", f"{since + 1}:*")[1]
        # A range that begins above the highest uid still matches the last message.
        uids = sorted(u for u in map(int, (found[0] or b"").split()) if u > since)
    number = NUMBER.search(validity[0] or b"") if validity and validity[0] else None
    return {
        "messageUids": uids,
        "uidValidity": int(number[1]) if number else None,
        "highestUid": max(uids, default=since),
    }


def get_email(call: Call) -> JSONObject:
    """Return one message, without marking it as read."""
    uid, folder = int(call.input["uid"]), str(call.input.get("folder") or "INBOX")
    with mailbox(call.credentials) as server:
        select(server, folder)
        head, raw = fetched(server.uid("FETCH", str(uid), "(UID FLAGS BODY.PEEK[])")[1], uid)
    message = mail.parse(raw)
    text, html = mail.bodies(message)
    flags = FLAGS.search(head)
    senders = mail.people(message, "From")
    return {
        "uid": uid,
        "externalId": f"{folder}:{uid}",
        "folder": folder,
        "headerMessageId": mail.header(message, "Message-ID"),
        "inReplyTo": mail.header(message, "In-Reply-To"),
        "references": mail.references(message),
        "from": senders[0] if senders else None,
        "to": mail.people(message, "To"),
        "cc": mail.people(message, "Cc"),
        "subject": mail.header(message, "Subject"),
        "date": mail.date(message),
        "bodyText": text,
        "bodyHtml": html,
        "flags": flags[1].decode("ascii", "replace").split() if flags else [],
        "attachments": mail.attachments(message),
    }


def fetched(answer: list[Any], uid: int) -> tuple[bytes, bytes]:  # Any: imaplib's bytes or pairs
    """Return what a FETCH says about a message, and its bytes.

    Raises:
        ServiceError: there is no message of that uid.
    """
    for index, item in enumerate(answer):
        if isinstance(item, tuple):
            rest = answer[index + 1] if index + 1 < len(answer) else b""
            head: bytes = item[0] + b" " + (rest if isinstance(rest, bytes) else b"")
            found = UID.search(head)
            if found is not None and int(found[1]) == uid:
                return head, item[1]
    raise ServiceError(NOT_FOUND, f"message {uid} not found")


def send_email(call: Call) -> JSONObject:
    """Send a message; a copy goes to the Sent folder if there is one."""
    credentials = call.credentials
    sender = str(credentials["username"])
    body, as_html = str(call.input["body"]), bool(call.input.get("html"))
    message = mail.compose(
        call.input,
        sender=sender if "@" in sender else f"{sender}@{credentials['smtpHost']}",
        text=None if as_html else body,
        html=body if as_html else None,
        domain=sender.partition("@")[2] or str(credentials["smtpHost"]),
    )
    copy = message.as_bytes()
    with smtp(credentials) as server:
        server.send_message(message)
    keep_copy(credentials, copy)
    return {"messageId": str(message["Message-ID"]), "ok": True}


@contextmanager
def smtp(credentials: JSONObject) -> Iterator[smtplib.SMTP]:
    """Log in by SMTP: TLS on port 465, else STARTTLS.

    Raises:
        ServiceError: the login or the message is refused, or the server cannot be reached.
    """
    with failures("SMTP"), open_smtp(credentials) as server:
        server.login(credentials["username"], credentials["password"])
        yield server


def open_smtp(credentials: JSONObject) -> smtplib.SMTP:
    """Return a connection that nobody can listen to."""
    host, port = credentials["smtpHost"], int(credentials.get("smtpPort") or 587)
    name, context = socket.gethostname(), tls(credentials)
    if port == SMTPS_PORT:
        return smtplib.SMTP_SSL(host, port, name, timeout=TIMEOUT_S, context=context)
    server = smtplib.SMTP(host, port, name, timeout=TIMEOUT_S)
    try:
        server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def keep_copy(credentials: JSONObject, message: bytes) -> None:
    """Append a sent message to the Sent folder; best effort, for it is sent already."""
    try:
        with mailbox(credentials) as server:
            known = folders(server)
            sent = next((f for f in known if f["specialUse"] == "\\Sent"), None) or next(
                (f for f in known if f["path"].lower() in SENT_NAMES), None
            )
            if sent is not None:
                server.append(quoted(sent["path"]), "\\Seen", "", message)
    except ServiceError as exc:
        print(f"no copy in the Sent folder: {exc.message}")  # noqa: T201 - goes to the app's log


serve(
    rpc={
        "__integration": dispatcher(
            {
                "send_email": send_email,
                "get_email": get_email,
                "list_emails": list_emails,
                "get_folders": get_folders,
                "sync_connect": no_sync,
                "sync_disconnect": no_sync,
                "sync_now": no_sync,
            }
        )
    }
)
