"""Copying a mailbox's inbox and sent mail by IMAP.

The cursor holds ``{"validity", "uid"}`` of every folder under ``folders``, and while a round goes
on the folders that are left under ``left``.
"""

from __future__ import annotations

import imaplib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import mail_copy
import sync
from connector import NOT_FOUND, Call, JSONObject, ServiceError
from mailboxes import fetch, flags_of, mailbox, open_folder, search, sent_folder
from sync import Page, Step

AT_ONCE = 25
SNIPPET = 200
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def sync_connect(call: Call) -> JSONObject:
    """Begin to copy the mailbox."""
    return sync.connect(call, str(call.credentials["username"]), source)


def sync_disconnect(call: Call) -> JSONObject:
    """Copy the mailbox no longer."""
    sync.disconnect(call)
    return {}


def sync_now(call: Call) -> JSONObject:
    """Copy what changed."""
    return sync.now(call, source)


@contextmanager
def source(call: Call) -> Iterator[Step]:
    """Return the steps through a mailbox, which stays open meanwhile."""
    with mailbox(call.credentials) as server:

        def step(cursor: Any) -> Page:  # Any: a JSON value
            known = cursor or {"folders": {}}
            if not known.get("left"):
                sent = sent_folder(server)
                return Page({**known, "left": ["INBOX", *([sent] if sent else [])]}, more=True)
            return _folder(call, server, known)

        yield step


def _folder(call: Call, server: imaplib.IMAP4, cursor: JSONObject) -> Page:
    """Return the next messages of the folder whose turn it is."""
    folder, *left = cursor["left"]
    try:
        validity = open_folder(server, folder)
    except ServiceError as exc:
        if exc.code == NOT_FOUND:
            # Renamed or out of order: no reason to give the copies up, nor to stop here for ever.
            return Page({**cursor, "left": left}, bool(left))
        raise
    state = cursor["folders"].get(folder)
    if state is None or state["validity"] != validity:
        # Other uids from now on: every copy is worth nothing.
        gone = list(_copies(call, folder))
        first = {"validity": validity, "uid": _before_first(call, server)}
        return _page(call, cursor, {folder: first}, gone=gone, more=True)
    uids = search(server, f"UID {state['uid'] + 1}:*", above=state["uid"])[:AT_ONCE]
    if uids:
        messages = [m for uid in uids if (m := _message(server, folder, uid)) is not None]
        reached = {"validity": validity, "uid": uids[-1]}
        return _page(call, cursor, {folder: reached}, messages=messages, more=True)
    return _reconciled(call, server, cursor, folder)


def _page(
    call: Call,
    cursor: JSONObject,
    folders: JSONObject,
    *,
    messages: list[JSONObject] | None = None,
    gone: list[str] | None = None,
    more: bool,
) -> Page:
    moved = {**cursor, "folders": {**cursor["folders"], **folders}}
    store = partial(
        mail_copy.store, call=call, marks="flags", messages=messages or [], gone=gone or []
    )
    return Page(moved, more, store)


def _before_first(call: Call, server: imaplib.IMAP4) -> int:
    """Return the uid before the first message that is new enough to be copied."""
    days = int(call.credentials.get("syncDays") or mail_copy.FIRST_DAYS)
    day = datetime.now(UTC) - timedelta(days=days)
    recent = search(server, f"SINCE {day.day:02d}-{MONTHS[day.month - 1]}-{day.year}")
    everything = search(server, "UID 1:*")
    return (recent[0] if recent else max(everything, default=0) + 1) - 1


def _reconciled(call: Call, server: imaplib.IMAP4, cursor: JSONObject, folder: str) -> Page:
    """Return the page that ends a folder: what was deleted there, and whose flags changed."""
    copies = _copies(call, folder)
    there = flags_of(server, min(map(_uid, copies))) if copies else {}
    gone = [copy for copy in copies if _uid(copy) not in there]
    changed = [
        {"external_id": copy, "flags": there[_uid(copy)]}
        for copy, flags in copies.items()
        if _uid(copy) in there and sorted(there[_uid(copy)]) != sorted(flags)
    ]
    left = cursor["left"][1:]

    def store(tx: Any) -> None:  # Any: the SDK's transaction
        mail_copy.store(tx, call, marks="flags", gone=gone)
        mail_copy.mark(tx, call, "flags", changed)

    return Page({**cursor, "left": left}, bool(left), store)


def _copies(call: Call, folder: str) -> dict[str, list[str]]:
    """Return the flags of the folder's copies by their external id."""
    found = sync.sql(
        call.ctx,
        "SELECT jsonb_object_agg(external_id, coalesce(to_jsonb(flags), '[]')) FROM messages"
        " WHERE connection_id = $1 AND starts_with(external_id, $2)",
        [call.connection_id, f"{folder}:"],
    )
    return dict(found.scalar() or {})


def _uid(external_id: str) -> int:
    return int(external_id.rpartition(":")[2])


def _message(server: imaplib.IMAP4, folder: str, uid: int) -> JSONObject | None:
    try:
        return _row(fetch(server, folder, uid))
    except ServiceError as exc:
        if exc.code == NOT_FOUND:
            return None
        raise


def _row(message: JSONObject) -> JSONObject:
    first = message["references"][0] if message["references"] else message["inReplyTo"]
    return {
        "external_id": message["externalId"],
        "thread_external_id": first or message["headerMessageId"] or message["externalId"],
        "header_message_id": message["headerMessageId"],
        "subject": message["subject"],
        "body_text": message["bodyText"],
        "body_html": message["bodyHtml"],
        "snippet": " ".join((message["bodyText"] or "")[: 2 * SNIPPET].split())[:SNIPPET],
        "internal_date": mail_copy.moment(message["date"]),
        "in_reply_to": message["inReplyTo"],
        "references": message["references"],
        "flags": message["flags"],
        "participants": mail_copy.participants(message),
        "attachments": [
            {
                "filename": part["filename"],
                "mime_type": part["mimeType"],
                "size": part["size"],
                "content_id": part["contentId"],
                "is_inline": part["disposition"] == "inline",
            }
            for part in message["attachments"]
        ],
    }
