"""Where copies of mail go: messages, threads, participants, attachments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from connector import Call, JSONObject
from sync import clean, upsert

FIRST_DAYS = 90
MAX_BODY = 200_000
MAX_ID = 500
BATCH_BYTES = 2_000_000
KEY = ("connection_id", "external_id")
COLUMNS = {
    "connection_id": "uuid",
    "user_id": "uuid",
    "external_id": "text",
    "thread_external_id": "text",
    "header_message_id": "text",
    "subject": "text",
    "body_text": "text",
    "body_html": "text",
    "snippet": "text",
    "internal_date": "timestamptz",
    "in_reply_to": "text",
    "references": "text[]",
}
ROLES = ("from", "to", "cc", "bcc")


def store(
    tx: Any,  # Any: the SDK's transaction
    call: Call,
    *,
    marks: str,
    messages: Sequence[JSONObject] = (),
    gone: Iterable[str] = (),
) -> None:
    """Write messages and delete those that are gone, with what hangs on them.

    Args:
        tx: the transaction.
        call: whose connection.
        marks: the column of a message's labels or flags.
        messages: values of ``COLUMNS`` but the first two, ``marks``, ``participants`` and
            ``attachments``.
        gone: external ids.
    """
    kept = _distinct([_shortened(message) for message in messages])
    threads = _delete(tx, call, list(gone))
    threads |= _supersede(tx, call, kept)
    for batch in _batches(kept):
        _write(tx, call, marks, batch)
    threads |= {str(message["thread_external_id"]) for message in kept}
    _thread(tx, call, sorted(threads))


def _shortened(message: JSONObject) -> JSONObject:
    """Return a message whose indexed texts fit into an index, whatever its sender wrote."""
    return {
        **message,
        "header_message_id": (message["header_message_id"] or "")[:MAX_ID] or None,
        "thread_external_id": str(message["thread_external_id"])[:MAX_ID],
        "body_text": (message["body_text"] or "")[:MAX_BODY] or None,
        "body_html": (message["body_html"] or "")[:MAX_BODY] or None,
    }


def _distinct(messages: Sequence[JSONObject]) -> list[JSONObject]:
    """Return one message of each Message-ID: copies in one mailbox are one message."""
    by_header = {m["header_message_id"] or m["external_id"]: m for m in messages}
    return list({m["external_id"]: m for m in by_header.values()}.values())


def _delete(tx: Any, call: Call, gone: list[str]) -> set[str]:
    if not gone:
        return set()
    deleted = tx.sql(
        "WITH deleted AS (DELETE FROM messages WHERE connection_id = $1 AND external_id = ANY($2)"
        " RETURNING thread_external_id)"
        " SELECT jsonb_agg(DISTINCT thread_external_id) FROM deleted",
        [call.connection_id, gone],
    )
    return set(deleted.scalar() or ())


def _supersede(tx: Any, call: Call, messages: list[JSONObject]) -> set[str]:
    """Delete older copies of messages that now have another id (a draft saved again)."""
    named = ("external_id", "header_message_id")
    given = [{name: m[name] for name in named} for m in messages if m["header_message_id"]]
    if not given:
        return set()
    found = tx.sql(
        "SELECT jsonb_agg(messages.external_id) FROM messages"
        " JOIN jsonb_to_recordset($2::jsonb) AS given(external_id text, header_message_id text)"
        " ON messages.header_message_id = given.header_message_id"
        " WHERE connection_id = $1 AND messages.external_id <> given.external_id",
        [call.connection_id, clean(given)],
    )
    return _delete(tx, call, found.scalar() or [])


def _batches(messages: list[JSONObject]) -> Iterator[list[JSONObject]]:
    """Return messages in numbers that fit into one statement."""
    batch: list[JSONObject] = []
    size = 0
    for message in messages:
        more = len(json.dumps(message))
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        yield batch


def _write(tx: Any, call: Call, marks: str, messages: list[JSONObject]) -> None:
    owner = {"connection_id": call.connection_id, "user_id": call.user_id}
    columns = {**COLUMNS, marks: "text[]"}
    rows = [{**{name: m.get(name) for name in columns}, **owner} for m in messages]
    upsert(tx, "messages", columns, rows, KEY)
    _hang(tx, call, "participants", ("role", "address", "name"), messages)
    kinds = ("external_id", "filename", "mime_type", "size", "content_id", "is_inline")
    _hang(tx, call, "attachments", kinds, messages)


def _hang(
    tx: Any, call: Call, entity: str, names: Sequence[str], messages: list[JSONObject]
) -> None:
    """Replace what hangs on messages."""
    ids = [m["external_id"] for m in messages]
    tx.sql(
        f"DELETE FROM {entity} WHERE message_id IN (SELECT id FROM messages"  # noqa: S608 - names of this code
        " WHERE connection_id = $1 AND external_id = ANY($2))",
        [call.connection_id, ids],
    )
    rows = [{"parent": m["external_id"], **item} for m in messages for item in m[entity]]
    if not rows:
        return
    types = {"size": "float8", "is_inline": "boolean"}
    typed = ", ".join(f"{name} {types.get(name, 'text')}" for name in names)
    values = ", ".join(f"given.{name}" for name in names)
    tx.sql(
        f"INSERT INTO {entity} (message_id, {', '.join(names)}) SELECT messages.id, {values}"  # noqa: S608 - as above
        f" FROM jsonb_to_recordset($2::jsonb) AS given(parent text, {typed}) JOIN messages"
        " ON messages.connection_id = $1 AND messages.external_id = given.parent",
        [call.connection_id, clean(rows)],
    )


def _thread(tx: Any, call: Call, threads: list[str]) -> None:
    """Have threads say what their messages say; one without messages goes."""
    if not threads:
        return
    given = [call.connection_id, threads]
    tx.sql(
        "INSERT INTO threads (connection_id, user_id, external_id, subject, last_message_at)"
        " SELECT connection_id, $3::uuid, thread_external_id,"
        " (array_agg(subject ORDER BY internal_date))[1], max(internal_date) FROM messages"
        " WHERE connection_id = $1 AND thread_external_id = ANY($2)"
        " GROUP BY connection_id, thread_external_id"
        " ON CONFLICT (connection_id, external_id) DO UPDATE"
        " SET subject = excluded.subject, last_message_at = excluded.last_message_at",
        [*given, call.user_id],
    )
    tx.sql(
        "DELETE FROM threads WHERE connection_id = $1 AND external_id = ANY($2) AND NOT EXISTS"
        " (SELECT 1 FROM messages WHERE messages.connection_id = $1"
        " AND messages.thread_external_id = threads.external_id)",
        given,
    )


def mark(tx: Any, call: Call, marks: str, changed: Sequence[JSONObject]) -> None:  # Any: as above
    """Change the labels or flags of messages."""
    if changed:
        tx.sql(
            f"UPDATE messages SET {marks} = given.{marks} FROM jsonb_to_recordset($2::jsonb)"  # noqa: S608 - a column's name
            f" AS given(external_id text, {marks} text[])"
            " WHERE connection_id = $1 AND messages.external_id = given.external_id",
            [call.connection_id, clean(list(changed))],
        )


def moment(text: str | None) -> str | None:
    """Return a time that Postgres takes, or None."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None


def participants(message: JSONObject) -> list[JSONObject]:
    """Return who wrote a parsed message and who got it."""
    people = {role: message.get(role) or [] for role in ROLES}
    return [
        {"role": role, "address": person["address"], "name": person["name"]}
        for role, found in people.items()
        for person in ([found] if isinstance(found, dict) else found)
    ]
