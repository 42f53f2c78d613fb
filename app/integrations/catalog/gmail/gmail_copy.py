"""Copying a Gmail mailbox: the last months first, then what its history says.

The cursor: ``{"history", "since", "page"}`` while everything is listed, ``{"history", "since"}``
while copies that the list did not show are looked at once more, ``{"history"}`` from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import google
import mail_copy
import sync
from connector import Api, Call, JSONObject, ServiceError, segment
from gmail_messages import parsed
from sync import Page, Step

PREFIX = "/gmail/v1/users/me"
READERS = 5
AT_ONCE = 25
HISTORY_AT_ONCE = 50
NOT_FOUND = 404
BAD_TOKEN = 400
CHANGES = ("messagesAdded", "labelsAdded", "labelsRemoved")


def api(call: Call) -> Api:
    """Return the client of the connected account."""
    return google.api(call, PREFIX)


def sync_connect(call: Call) -> JSONObject:
    """Begin to copy the mailbox."""
    return sync.connect(call, str(api(call).get("/profile")["emailAddress"]), source)


def sync_disconnect(call: Call) -> JSONObject:
    """Copy the mailbox no longer."""
    return sync.disconnect(call)


def sync_now(call: Call) -> JSONObject:
    """Copy what changed."""
    return sync.now(call, source)


@contextmanager
def source(call: Call) -> Iterator[Step]:
    """Return the steps through a mailbox."""
    gmail = api(call)

    def step(cursor: Any) -> Page:  # Any: a JSON value
        if not cursor:
            return _begin(call, gmail)
        if "page" in cursor:
            return _listed(call, gmail, cursor)
        if "since" in cursor:
            return _unlisted(call, gmail, cursor)
        return _changed(call, gmail, cursor)

    yield step


def _begin(call: Call, gmail: Api) -> Page:
    """Note where the history is before anything is listed: nothing falls in between."""
    history = str(gmail.get("/profile")["historyId"])
    since = sync.sql(call.ctx, "SELECT now()").scalar()
    return Page({"history": history, "since": since, "page": ""}, more=True)


def _listed(call: Call, gmail: Api, cursor: JSONObject) -> Page:
    days = call.config.get("syncDays") or mail_copy.FIRST_DAYS
    query = {"maxResults": AT_ONCE, "q": f"newer_than:{days}d", "pageToken": cursor["page"] or None}
    try:
        page = gmail.get("/messages", query) or {}
    except ServiceError as exc:
        if exc.status == BAD_TOKEN and cursor["page"]:
            return Page({**cursor, "page": ""}, more=True)
        raise
    next_cursor = {**cursor, "page": page.get("nextPageToken")}
    if not next_cursor["page"]:
        del next_cursor["page"]
    return _copied(call, gmail, next_cursor, [str(m["id"]) for m in page.get("messages") or ()])


def _unlisted(call: Call, gmail: Api, cursor: JSONObject) -> Page:
    """Look at older copies one by one: a list that shifts while it is read proves nothing."""
    found = sync.sql(
        call.ctx,
        "SELECT external_id FROM messages WHERE connection_id = $1 AND updated_at < $2"
        " ORDER BY updated_at LIMIT $3",
        [call.connection_id, cursor["since"], AT_ONCE],
    )
    ids = [row[0] for row in found]
    if not ids:
        return Page({"history": cursor["history"]}, more=True)
    return _copied(call, gmail, cursor, ids)


def _changed(call: Call, gmail: Api, cursor: JSONObject) -> Page:
    query = {"startHistoryId": cursor["history"], "maxResults": HISTORY_AT_ONCE}
    try:
        page = gmail.get("/history", query)
    except ServiceError as exc:
        if exc.status == NOT_FOUND:
            return Page(None, more=True)
        raise
    while page.get("nextPageToken") and not page.get("history"):
        page = gmail.get("/history", {**query, "pageToken": page["nextPageToken"]})
    records = page.get("history") or []
    changed, gone = _named(records)
    more = bool(page.get("nextPageToken"))
    # Not the page's token but its last record: that does not expire within minutes.
    reached = records[-1]["id"] if more else page["historyId"]
    return _copied(call, gmail, {"history": str(reached)}, changed, gone, more=more)


def _named(records: Sequence[JSONObject]) -> tuple[list[str], list[str]]:
    """Return the messages that changes are about, and those that were deleted."""
    changed: dict[str, None] = {}
    gone: dict[str, None] = {}
    for record in records:
        for kind in CHANGES:
            changed.update((str(c["message"]["id"]), None) for c in record.get(kind) or ())
        gone.update((str(c["message"]["id"]), None) for c in record.get("messagesDeleted") or ())
    return [found for found in changed if found not in gone], list(gone)


def _copied(
    call: Call,
    gmail: Api,
    cursor: JSONObject,
    ids: Sequence[str],
    gone: Sequence[str] = (),
    *,
    more: bool = True,
) -> Page:
    """Return a page of messages, fetched; what is not there any more is gone."""
    with ThreadPoolExecutor(READERS) as readers:
        fetched = list(readers.map(partial(_message, gmail), ids))
    missing = [found for found, message in zip(ids, fetched, strict=True) if message is None]
    messages = [_row(message) for message in fetched if message is not None]
    store = partial(
        mail_copy.store, call=call, marks="label_ids", messages=messages, gone=[*gone, *missing]
    )
    return Page(cursor, more, store)


def _message(gmail: Api, message_id: str) -> JSONObject | None:
    try:
        found = gmail.get(f"/messages/{segment(message_id)}", {"format": "full"})
    except ServiceError as exc:
        if exc.status == NOT_FOUND:
            return None
        raise
    read: JSONObject = parsed(found)
    return read


def _row(message: JSONObject) -> JSONObject:
    moment = message["internalDate"]
    return {
        "external_id": message["id"],
        "thread_external_id": message["threadId"] or message["id"],
        "header_message_id": message["headerMessageId"],
        "subject": message["subject"],
        "body_text": message["bodyText"],
        "body_html": message["bodyHtml"],
        "snippet": message["snippet"],
        "internal_date": moment and datetime.fromtimestamp(int(moment) / 1000, UTC).isoformat(),
        "in_reply_to": message["inReplyTo"],
        "references": message["references"],
        "label_ids": message["labelIds"],
        "participants": mail_copy.participants(message),
        "attachments": [
            {
                "external_id": part["id"],
                "filename": part["filename"],
                "mime_type": part["mimeType"],
                "size": part["size"],
                "content_id": part["contentId"],
                "is_inline": part["isInline"],
            }
            for part in message["attachments"]
        ],
    }
