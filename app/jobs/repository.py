"""Every SELECT and INSERT of jobs; the queue's own statements are in ``app.pgqueue``.

Lists are put together by Postgres and passed on as text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.db import SCHEMA
from app.jobs.models import ArchivedJob, DeadJob, JobKey, QueuedJob
from app.pgqueue.client import Queue
from app.pgqueue.types import Layout, Outgoing, Selection
from app.rbac import service as rbac_service

QUEUE = Queue(
    Layout(
        live=f"{SCHEMA}.{QueuedJob.__tablename__}",
        archive=f"{SCHEMA}.{ArchivedJob.__tablename__}",
        dead=f"{SCHEMA}.{DeadJob.__tablename__}",
        lane=("app_id", "route"),
        body={
            "user_id": "uuid",
            "source": "text",
            "cron_id": "uuid",
            "hook_id": "uuid",
            "payload": "jsonb",
            "max_attempts": "smallint",
            "progress": "real",
            "progress_note": "text",
        },
    )
)
ARRIVING = {
    "app_id": "text",
    "user_id": "uuid",
    "source": "text",
    "payload": "jsonb",
    "max_attempts": "smallint",
}
ARRIVED = f"""
SELECT {", ".join(f"CAST(m.{c} AS {t}) AS {c}" for c, t in ARRIVING.items())}, m.priority, m.place
FROM unnest({", ".join(f"CAST(:{c} AS text[])" for c in ARRIVING)}, CAST(:priority AS smallint[]))
    WITH ORDINALITY AS m({", ".join(ARRIVING)}, priority, place)
WHERE {rbac_service.UNCHANGED} AND {apps_service.ALL_INSTALLED}
"""  # noqa: S608 - put together from constants
KEY_TTL = timedelta(hours=24)


class State(StrEnum):
    """States of a job as the API names them."""

    ACTIVE = "active"
    QUEUED = "queued"
    RUNNING = "running"
    ARCHIVED = "archived"
    FAILED = "failed"


def _time(column: str) -> str:
    return (
        f"replace(to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"
        " '.000000Z', 'Z')"
    )


RUNNING = "NOT j.fresh AND j.vt > now() AND j.last_read_at IS NOT NULL"
BASE = f"""'msg_id', j.msg_id, 'app_id', j.app_id, 'payload', j.payload, 'user_id', j.user_id,
    'read_ct', j.read_ct, 'enqueued_at', {_time("j.enqueued_at")}"""
ARCHIVED = f"{BASE}, 'archived_at', {_time('j.archived_at')}"
FAILED = f"{BASE}, 'reason', j.reason, 'failed_at', {_time('j.failed_at')}"
DETAIL = """, 'state', {state}, 'vt', {vt}, 'attempts', j.attempts, 'max_attempts', j.max_attempts,
    'priority', j.priority, 'progress', j.progress, 'progress_note', j.progress_note,
    'last_error', j.last_error"""

# table, fields, further condition
SOURCES = {
    State.ACTIVE: ("jobs_queue", BASE, "true"),
    State.QUEUED: ("jobs_queue", BASE, f"NOT ({RUNNING})"),
    State.RUNNING: ("jobs_queue", BASE, RUNNING),
    State.ARCHIVED: ("jobs_archive", ARCHIVED, "true"),
    State.FAILED: ("jobs_dead", FAILED, "true"),
}
PAGES = {
    state: text(f"""
SELECT coalesce(json_agg(json_build_object({shown}) ORDER BY j.msg_id DESC), '[]')::text
FROM (
    SELECT * FROM {SCHEMA}.{table} j
    WHERE j.app_id = :app_id AND {condition}
        AND (CAST(:before AS bigint) IS NULL OR j.msg_id < :before)
    ORDER BY j.msg_id DESC LIMIT :most
) j
""")  # noqa: S608 - put together from the constants above
    for state, (table, shown, condition) in SOURCES.items()
}


def _one(state: State, state_sql: str, vt_sql: str) -> str:
    table, shown, _condition = SOURCES[state]
    detail = DETAIL.format(state=state_sql, vt=vt_sql)
    return (
        f"SELECT json_build_object({shown}{detail})::text FROM {SCHEMA}.{table} j"  # noqa: S608
        " WHERE j.app_id = :app_id AND j.msg_id = :msg_id"
    )


ONE = text(
    " UNION ALL ".join(
        [
            _one(
                State.ACTIVE,
                f"CASE WHEN {RUNNING} THEN 'running' ELSE 'queued' END",
                _time("j.vt"),
            ),
            _one(State.ARCHIVED, "'archived'", "null"),
            _one(State.FAILED, "'failed'", "null"),
        ]
    )
)


def send_if_unchanged(
    session: Session, messages: Sequence[Outgoing], stamps: Collection[str]
) -> list[int]:
    """Put visible jobs on the queue, all or none: none unless what the senders know still holds.

    Args:
        session: the transaction.
        messages: at least one.
        stamps: states of the authority tables the owners' rights were read with.

    Returns:
        Their ids in the given order, or nothing.
    """
    values: dict[str, list[object]] = {
        column: [message.values[column] for message in messages] for column in ARRIVING
    }
    return QUEUE.send_selected(
        session,
        Selection(
            ARRIVED,
            (*ARRIVING, "priority"),
            {
                **values,
                "priority": [message.priority for message in messages],
                "stamps": list(stamps),
                "principals": list(dict.fromkeys(values["user_id"])),
                "apps": list(dict.fromkeys(values["app_id"])),
            },
        ),
    )


def page(
    session: Session, app_id: str, state: State, *, most: int, before: int | None = None
) -> str:
    """Return jobs of an app as JSON text, newest first; ``before``: only ids below it."""
    values = {"app_id": app_id, "most": most, "before": before}
    return str(session.execute(PAGES[state], values).scalar_one())


def one(session: Session, app_id: str, msg_id: int) -> str | None:
    """Return one job in any state as JSON text."""
    return session.execute(ONE, {"app_id": app_id, "msg_id": msg_id}).scalars().first()


def state_of(session: Session, app_id: str, msg_id: int) -> State | None:
    """Return where a job is; locks its row when it is still in the queue."""
    query = text(
        f"SELECT CASE WHEN {RUNNING} THEN 'running' ELSE 'queued' END FROM {SCHEMA}.jobs_queue j"  # noqa: S608
        " WHERE j.app_id = :app_id AND j.msg_id = :msg_id FOR UPDATE"
    )
    values = {"app_id": app_id, "msg_id": msg_id}
    found = session.execute(query, values).scalar_one_or_none()
    if found is not None:
        return State(found)
    for state, model in ((State.ARCHIVED, ArchivedJob), (State.FAILED, DeadJob)):
        where = (model.app_id == app_id, model.msg_id == msg_id)
        if session.execute(select(model.msg_id).where(*where)).first():
            return state
    return None


QUEUED_CRONS = text(
    f"SELECT DISTINCT cron_id FROM {SCHEMA}.jobs_queue WHERE cron_id = ANY (:cron_ids)"  # noqa: S608
).bindparams(bindparam("cron_ids", type_=ARRAY(PG_UUID(as_uuid=True))))


def queued_crons(session: Session, cron_ids: Collection[UUID]) -> set[UUID]:
    """Return those crons of which the queue holds a message, waiting or in flight."""
    return set(session.execute(QUEUED_CRONS, {"cron_ids": list(cron_ids)}).scalars())


PROGRESS = text(
    f"UPDATE {SCHEMA}.jobs_queue SET progress = :progress, progress_note = :note"  # noqa: S608
    " WHERE msg_id = :msg_id AND app_id = :app_id"
)


def set_progress(
    session: Session, app_id: str, msg_id: int, progress: float, note: str | None
) -> None:
    """Note how far a running job is."""
    values = {"app_id": app_id, "msg_id": msg_id, "progress": progress, "note": note}
    session.execute(PROGRESS, values)


def reserve_key(session: Session, app_id: str, key: str) -> int | None:
    """Take an idempotency key, or return the job that has it.

    Locks the key until the transaction ends, so that of two equal requests one waits.
    """
    insertion = upsert(JobKey).values(app_id=app_id, idempotency_key=key, msg_id=0)
    taken = session.execute(
        insertion.on_conflict_do_update(
            index_elements=[JobKey.app_id, JobKey.idempotency_key],
            set_={"msg_id": 0, "created_at": func.now()},
            where=JobKey.created_at < func.now() - KEY_TTL,
        ).returning(JobKey.msg_id)
    ).first()
    if taken is not None:
        return None
    where = (JobKey.app_id == app_id, JobKey.idempotency_key == key)
    return session.execute(select(JobKey.msg_id).where(*where)).scalar_one()


def fill_key(session: Session, app_id: str, key: str, msg_id: int) -> None:
    """Write the job a reserved key stands for."""
    row = session.get(JobKey, (app_id, key))
    if row is not None:
        session.refresh(row)
        row.msg_id = msg_id


def drop_keys(session: Session, app_id: str | None = None) -> None:
    """Delete the keys of an app; without one, those that ran out."""
    statement = JobKey.__table__.delete()  # type: ignore[attr-defined]
    if app_id is None:
        session.execute(statement.where(JobKey.created_at < func.now() - KEY_TTL))
    else:
        session.execute(statement.where(JobKey.app_id == app_id))


def dead_ids(session: Session, app_id: str, msg_ids: Sequence[int]) -> list[int]:
    """Return those of the ids that are dead letters of an app."""
    query = select(DeadJob.msg_id).where(DeadJob.app_id == app_id, DeadJob.msg_id.in_(msg_ids))
    return list(session.scalars(query))
