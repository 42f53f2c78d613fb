"""Copying what a service holds into the integration's own records, a page at a time.

A page and the cursor behind it are one transaction: after a crash the next run begins at the page
that was lost, and nothing is copied twice. Of two runs at once the slower one gives up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from connector import MISCONFIGURED, REJECTED, TEMPORARY, UNKNOWN, Call, JSONObject, ServiceError
from trellis_worker import HostError

FIRST_S = 4.0
NOW_S = 12.0
TRIES = 5
PAUSE_S = 0.5
BUSY = ("too many concurrent", "rate limited")
MAX_BACKOFF_S = 3600
JOB_S = 900
MAX_TEXT = 500

Rows = Sequence[Mapping[str, Any]]  # Any: JSON values


@dataclass(frozen=True)
class Page:
    """What one step brought.

    Attributes:
        cursor: where the next step begins.
        more: whether there is a next step for now.
        store: writes what the step brought, in the transaction that moves the cursor.
    """

    cursor: Any  # Any: a JSON value
    more: bool
    store: Callable[[Any], None] = lambda _tx: None  # Any: the SDK's transaction


Step = Callable[[Any], Page]  # Any: the cursor, a JSON value
Source = Callable[[Call], AbstractContextManager[Step]]


class Overtaken(Exception):
    """Another run moved the cursor, or synchronising was ended."""


# --- the actions -----------------------------------------------------------------------------


def connect(call: Call, handle: str, source: Source) -> JSONObject:
    """Begin to synchronise the call's connection and copy its first pages.

    Raises:
        ServiceError: the service refuses or cannot be reached.
    """
    begun = sql(
        call.ctx,
        "INSERT INTO sync_cursors (connection_id, user_id, handle, status) VALUES ($1, $2, $3, 'new')"
        " ON CONFLICT (connection_id) DO UPDATE SET"
        " handle = excluded.handle, enabled = true, throttle_count = 0, throttle_after = NULL"
        " RETURNING id",
        [call.connection_id, call.user_id, handle],
    )
    _run(call, source, FIRST_S)
    return {"cursor_id": begun.scalar(), "handle": handle}


def disconnect(call: Call) -> JSONObject:
    """Stop synchronising the call's connection; what was copied stays."""
    sql(
        call.ctx,
        "UPDATE sync_cursors SET enabled = false WHERE connection_id = $1",
        [call.connection_id],
    )
    return {"ok": True}


def now(call: Call, source: Source) -> JSONObject:
    """Copy what changed since the last time; nothing when synchronising never began or ended.

    Raises:
        ServiceError: the service refuses, cannot be reached, or asked us to wait.
    """
    return {"triggered": _run(call, source, NOW_S)}


def sync_all(payload: Any, _caller: Any, ctx: Any) -> Any:  # Any: JSON values, the SDK's ctx
    """Work on a job of the cron: have every connection synchronised as its owner."""
    if not isinstance(payload, dict) or payload.get("type") != "sync_all":
        return None
    ctx.job.extend(JOB_S)
    return ctx.self_action("syncConnectedUsers", {"actionName": "sync_now"})


# --- running ---------------------------------------------------------------------------------


def _run(call: Call, source: Source, seconds: float) -> bool:
    """Take steps until nothing is left for now or time is up; False: it is not wanted."""
    row = _row(call)
    if row is None or not row["enabled"]:
        return False
    call.user_id = row["user_id"]
    if row["until"] is not None and row["until"] > time.time() * 1000:
        text = row["last_error"] or "the service asked to wait"
        raise ServiceError(TEMPORARY, text, retry_after=int(row["until"]))
    try:
        with source(call) as step:
            caught_up = _steps(call, row, step, time.monotonic() + seconds)
    except Overtaken:
        return True
    except ServiceError as exc:
        _failed(call, row, exc)
        raise
    except HostError as exc:
        failure = ServiceError(UNKNOWN, f"the copies could not be stored: {exc}")
        _failed(call, row, failure)
        raise failure from None
    sql(
        call.ctx,
        "UPDATE sync_cursors SET status = $2, last_synced_at = now(), throttle_count = 0,"
        " throttle_after = NULL, last_error = NULL WHERE id = $1",
        [row["id"], "active" if caught_up else "syncing"],
    )
    return True


def _row(call: Call) -> JSONObject | None:
    found: JSONObject | None = sql(
        call.ctx,
        "SELECT id, user_id, enabled, cursor, throttle_count, last_error,"
        " (EXTRACT(EPOCH FROM throttle_after) * 1000)::float8 AS until"
        " FROM sync_cursors WHERE connection_id = $1",
        [call.connection_id],
    ).one()
    return found


def _steps(call: Call, row: JSONObject, step: Step, ends_at: float) -> bool:
    cursor = row["cursor"]
    while True:
        page = step(cursor)
        commit(call.ctx, partial(_keep, row["id"], cursor, page))
        cursor = page.cursor
        if not page.more:
            return True
        if time.monotonic() >= ends_at:
            return False


def _keep(row_id: str, cursor: Any, page: Page, tx: Any) -> None:  # Any: JSON, the SDK's
    """Write a page and move the cursor behind it.

    Raises:
        Overtaken: the cursor is not where the page began.
    """
    moved = tx.sql(
        "UPDATE sync_cursors SET cursor = $2 WHERE id = $1 AND enabled"
        " AND cursor IS NOT DISTINCT FROM $3",
        [row_id, page.cursor, cursor],
    )
    if not moved.row_count:
        raise Overtaken
    page.store(tx)


def _failed(call: Call, row: JSONObject, exc: ServiceError) -> None:
    """Remember a failure, and to leave the service alone for a while."""
    count = int(row["throttle_count"] or 0) + 1
    until = exc.retry_after or int((time.time() + min(30 * 2**count, MAX_BACKOFF_S)) * 1000)
    # A rejected login is renewed by its user or by the platform: no reason to wait then.
    waits = exc.code not in {REJECTED, MISCONFIGURED}
    sql(
        call.ctx,
        "UPDATE sync_cursors SET status = 'failed', last_error = $2, throttle_count = $3,"
        " throttle_after = to_timestamp($4::float8 / 1000) WHERE id = $1",
        [row["id"], exc.message[:MAX_TEXT], count, until if waits else None],
    )


def commit(ctx: Any, work: Callable[[Any], None]) -> None:  # Any: the SDK's ctx, transaction
    """Do work in a transaction, waiting a little when the platform is busy.

    Raises:
        ServiceError: it stays busy.
    """

    def whole() -> None:
        with ctx.transaction() as tx:
            work(tx)

    _patiently(whole)


def sql(ctx: Any, statement: str, params: Sequence[Any] = ()) -> Any:  # Any: the SDK's, JSON values
    """Run a statement and return its result, waiting a little when the platform is busy.

    Raises:
        ServiceError: it stays busy.
    """
    return _patiently(partial(ctx.sql, statement, list(params)))


def _patiently(work: Callable[[], Any]) -> Any:  # Any: what the work returns
    for _ in range(TRIES):
        try:
            return work()
        except HostError as exc:
            if not str(exc).startswith(BUSY):
                raise
        time.sleep(PAUSE_S)
    raise ServiceError(TEMPORARY, "the platform is busy")


# --- writing ---------------------------------------------------------------------------------


def upsert(tx: Any, entity: str, types: Mapping[str, str], rows: Rows, key: Sequence[str]) -> None:
    """Insert rows, or change those with the same key.

    Args:
        tx: the transaction.
        entity: where to.
        types: column to its type in Postgres.
        rows: what every column gets.
        key: columns of a unique index.
    """
    if not rows:
        return
    names = ", ".join(f'"{name}"' for name in types)
    typed = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in types if name not in key)
    tx.sql(
        f'INSERT INTO "{entity}" ({names}) SELECT {names} FROM jsonb_to_recordset($1::jsonb)'  # noqa: S608 - names of this code
        f" AS given({typed}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}",
        [clean(list(rows))],
    )


def clean(value: Any) -> Any:  # Any: JSON values
    """Return a JSON value without what Postgres cannot hold in a text."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {name: clean(item) for name, item in value.items()}
    return value
