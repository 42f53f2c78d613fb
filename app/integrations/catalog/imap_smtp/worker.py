"""Mail of any mailbox: IMAP for reading, SMTP for sending."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import imap_copy
import mail
from connector import Call, JSONObject, ServiceError, dispatcher
from mailboxes import (
    TIMEOUT_S,
    failures,
    fetch,
    folders,
    mailbox,
    open_folder,
    quoted,
    search,
    sent_folder,
    tls,
)
from sync import sync_all
from trellis_worker import serve

SMTPS_PORT = 465


# --- actions ---------------------------------------------------------------------------------


def get_folders(call: Call) -> JSONObject:
    """Return the folders of the mailbox."""
    with mailbox(call.credentials) as server:
        return {"folders": folders(server)}


def list_emails(call: Call) -> JSONObject:
    """Return the uids of a folder, oldest first."""
    since = int(call.input.get("sinceUid") or 0)
    with mailbox(call.credentials) as server:
        validity = open_folder(server, str(call.input.get("folder") or "INBOX"))
        uids = search(server, f"UID {since + 1}:*", above=since)
    return {
        "messageUids": uids,
        "uidValidity": validity,
        "highestUid": max(uids, default=since),
    }


def get_email(call: Call) -> JSONObject:
    """Return one message, without marking it as read."""
    folder = str(call.input.get("folder") or "INBOX")
    with mailbox(call.credentials) as server:
        open_folder(server, folder)
        found: JSONObject = fetch(server, folder, int(call.input["uid"]))
        return found


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
            sent = sent_folder(server)
            if sent is not None:
                server.append(quoted(sent), "\\Seen", "", message)
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
                "sync_connect": imap_copy.sync_connect,
                "sync_disconnect": imap_copy.sync_disconnect,
                "sync_now": imap_copy.sync_now,
            }
        )
    },
    on_job=sync_all,
)
