"""Mail servers: connections nobody can listen to, folders, messages by uid."""

from __future__ import annotations

import imaplib
import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mail
from connector import NOT_FOUND, REJECTED, TEMPORARY, UNKNOWN, JSONObject, ServiceError

TIMEOUT_S = 12.0
IMAPS_PORT = 993
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


# --- folders and messages --------------------------------------------------------------------


def open_folder(server: imaplib.IMAP4, folder: str) -> int | None:
    """Open a folder for reading and return its UIDVALIDITY.

    Raises:
        ServiceError: there is none of that name.
    """
    if server.select(quoted(folder), readonly=True)[0] != "OK":
        raise ServiceError(NOT_FOUND, f"folder '{folder}' not found")
    validity = server.response("UIDVALIDITY")[1]
    number = NUMBER.search(validity[0] or b"") if validity and validity[0] else None
    return int(number[1]) if number else None


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


def sent_folder(server: imaplib.IMAP4) -> str | None:
    """Return the path of the folder of sent mail, if there is one."""
    known = folders(server)
    sent = next((f for f in known if f["specialUse"] == "\\Sent"), None) or next(
        (f for f in known if f["path"].lower() in SENT_NAMES), None
    )
    return None if sent is None else str(sent["path"])


def search(server: imaplib.IMAP4, criteria: str, above: int = 0) -> list[int]:
    """Return the uids in the open folder that match, in order.

    A range that begins above the highest uid still matches the last message; hence ``above``.
    """
    found = _asked(server, "SEARCH", criteria)
    return sorted(uid for uid in map(int, (found[0] or b"").split()) if uid > above)


def flags_of(server: imaplib.IMAP4, first: int) -> dict[int, list[str]]:
    """Return the flags of the open folder's messages from a uid on."""
    found = {}
    for line in _asked(server, "FETCH", f"{first}:*", "(UID FLAGS)"):
        uid = UID.search(line) if isinstance(line, bytes) else None
        if uid is not None:
            found[int(uid[1])] = marks(line)
    return found


def _asked(server: imaplib.IMAP4, command: str, *arguments: str) -> list[Any]:  # Any: imaplib's
    """Return what a UID command answers; a server that says no has not said "nothing"."""
    status, answer = server.uid(command, *arguments)
    if status != "OK":
        raise ServiceError(TEMPORARY, f"the IMAP server refused: {answer[0]!r}")
    return answer


def marks(head: bytes) -> list[str]:
    """Return the flags in what a FETCH says."""
    flags = FLAGS.search(head)
    return flags[1].decode("ascii", "replace").split() if flags else []


def fetch(server: imaplib.IMAP4, folder: str, uid: int) -> JSONObject:
    """Return one message of the open folder, without marking it as read.

    Raises:
        ServiceError: there is none of that uid.
    """
    head, raw = _fetched(_asked(server, "FETCH", str(uid), "(UID FLAGS BODY.PEEK[])"), uid)
    message = mail.parse(raw)
    text, html = mail.bodies(message)
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
        "flags": marks(head),
        "attachments": mail.attachments(message),
    }


def _fetched(answer: list[Any], uid: int) -> tuple[bytes, bytes]:  # Any: imaplib's bytes or pairs
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
