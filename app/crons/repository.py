"""Every SQL statement of crons, their runs and the scheduler's state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.db import SCHEMA
from app.crons.models import PG_JOB_ID, CronRun, CronSchedule, SchedulerState
from app.crons.ticker import SHARDS, Plan, Tick
from app.pgqueue.types import Selection

CHANGED = "trellis_crons"


@dataclass(frozen=True, slots=True)
class DueRun:
    """A tick that waits to become a job, with its cron as it is now.

    Ids are texts: thousands come at a time, and ``UUID`` takes longer than all else.

    Attributes:
        has_message: the payload has a text ``message``, which an agent would be given.
    """

    runid: int
    cron_id: str
    app_id: str
    has_message: bool
    overlap_policy: str
    enabled: bool
    created_by: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tick."""

    runid: int
    status: str
    message: str
    msg_id: int | None = None


def find(
    session: Session, app_id: str, cron_id: UUID, *, lock: bool = False
) -> CronSchedule | None:
    """Return a cron of an app; ``lock`` keeps others from changing it."""
    query = select(CronSchedule).where(CronSchedule.app_id == app_id, CronSchedule.id == cron_id)
    if lock:
        # A session that saw the row before must not go on with what it remembers.
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def find_by_name(session: Session, app_id: str, name: str) -> CronSchedule | None:
    """Return the cron of an app by its name, locked."""
    query = select(CronSchedule).where(CronSchedule.app_id == app_id, CronSchedule.name == name)
    return session.scalars(query.with_for_update()).one_or_none()


def of_app(session: Session, app_id: str, *, owner: UUID | None = None) -> list[CronSchedule]:
    """Return an app's crons by name, only one owner's if given."""
    query = select(CronSchedule).where(CronSchedule.app_id == app_id)
    if owner is not None:
        query = query.where(CronSchedule.created_by == owner)
    return list(session.scalars(query.order_by(CronSchedule.name)))


def app_ids(session: Session) -> list[str]:
    """Return the apps that have crons."""
    return list(session.scalars(select(CronSchedule.app_id).distinct()))


def of_apps(
    session: Session, *, whole: Collection[str], own: Collection[str], owner: UUID | None
) -> list[CronSchedule]:
    """Return all crons of some apps and one owner's of others, by app and name."""
    mine = CronSchedule.app_id.in_(own) & (CronSchedule.created_by == owner)
    query = select(CronSchedule).where(or_(CronSchedule.app_id.in_(whole), mine))
    return list(session.scalars(query.order_by(CronSchedule.app_id, CronSchedule.name)))


def manifest_made(session: Session, app_id: str) -> list[CronSchedule]:
    """Return the crons an app's manifests created or took over."""
    query = select(CronSchedule).where(
        CronSchedule.app_id == app_id, CronSchedule.source == "manifest"
    )
    return list(session.scalars(query))


def next_pg_job_id(session: Session) -> int:
    """Return a running number that was never used."""
    return int(session.execute(select(PG_JOB_ID.next_value())).scalar_one())


def announce_change(session: Session) -> None:
    """Wake the scheduler after commit; changes of crons are rare enough for NOTIFY."""
    session.execute(select(func.pg_notify(CHANGED, "")))


def drop(session: Session, cron: CronSchedule) -> None:
    """Delete a cron and its history."""
    session.execute(delete(CronSchedule).where(CronSchedule.id == cron.id))


# --- runs ------------------------------------------------------------------------------------


def runs(session: Session, cron_id: UUID, *, most: int) -> list[CronRun]:
    """Return what a cron's ticks did, newest first; ticks that wait to be fired are left out."""
    query = (
        select(CronRun)
        .where(CronRun.cron_id == cron_id, CronRun.status != "due")
        .order_by(CronRun.runid.desc())
        .limit(most)
    )
    return list(session.scalars(query))


def add_manual_run(session: Session, cron_id: UUID, msg_id: int) -> None:
    """Record a trigger."""
    session.add(
        CronRun(
            cron_id=cron_id,
            status="succeeded",
            return_message=f"manual, enqueued msg {msg_id}",
            end_time=func.now(),
            msg_id=msg_id,
        )
    )


# As ``ticker.shard_of``.
SHARD = f"get_byte(uuid_send(cron_id), 15) % {SHARDS}"

TAKE_DUE = text(f"""
WITH due AS (
    SELECT runid, cron_id FROM {SCHEMA}.cron_runs
    WHERE status = 'due' AND {SHARD} = :shard
    ORDER BY cron_id, runid LIMIT :most FOR UPDATE SKIP LOCKED
)
SELECT d.runid, CAST(c.id AS text), c.app_id, jsonb_typeof(c.payload -> 'message') IS NOT DISTINCT FROM 'string',
    c.overlap_policy, c.enabled, CAST(c.created_by AS text)
FROM due d JOIN {SCHEMA}.cron_schedules c ON c.id = d.cron_id
ORDER BY d.runid
""")  # noqa: S608 - only our own schema name is put in


def take_due(session: Session, *, shard: int, most: int) -> list[DueRun]:
    """Lock a shard's ticks that wait to be fired, in the order they were written.

    Those that other transactions hold are skipped.
    """
    values = {"shard": shard, "most": most}
    return [DueRun(*row) for row in session.execute(TAKE_DUE, values)]


DUE_SHARDS = text(f"""
SELECT DISTINCT {SHARD} FROM {SCHEMA}.cron_runs WHERE status = 'due'
""")  # noqa: S608 - as above


def due_shards(session: Session) -> list[int]:
    """Return the shards that have ticks which wait to be fired."""
    return list(session.execute(DUE_SHARDS).scalars())


# A payload that is an object gets its cron's id; others stay as they are.
JOBS = Selection(
    statement=f"""
SELECT c.app_id, w.route, c.created_by AS user_id, 'cron' AS source, c.id AS cron_id,
    CASE WHEN jsonb_typeof(c.payload) = 'object'
        THEN c.payload || jsonb_build_object('cron_id', c.id) ELSE c.payload END AS payload,
    r.runid AS place
FROM unnest(CAST(:runid AS bigint[]), CAST(:route AS text[])) AS w(runid, route)
JOIN {SCHEMA}.cron_runs r ON r.runid = w.runid
JOIN {SCHEMA}.cron_schedules c ON c.id = r.cron_id
""",  # noqa: S608 - only our own schema name is put in
    columns=("app_id", "route", "user_id", "source", "cron_id", "payload"),
    values={},
)


def jobs_of(routes: Mapping[int, str]) -> Selection:
    """Return what makes one job of each run; ``routes``: the run's id and its job's route."""
    values = {"runid": list(routes), "route": list(routes.values())}
    return replace(JOBS, values=values)


FINISH = text(f"""
UPDATE {SCHEMA}.cron_runs r
SET status = o.status, return_message = o.message, msg_id = o.msg_id,
    end_time = clock_timestamp()
FROM unnest(CAST(:runid AS bigint[]), CAST(:status AS text[]), CAST(:message AS text[]),
    CAST(:msg_id AS bigint[])) AS o(runid, status, message, msg_id)
WHERE r.runid = o.runid
""")  # noqa: S608 - as above


def finish(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of ticks."""
    names = ("runid", "status", "message", "msg_id")
    values = {name: [getattr(outcome, name) for outcome in outcomes] for name in names}
    session.execute(FINISH, values)


def prune_runs(session: Session, *, age_s: float, most: int = 10_000) -> int:
    """Delete a bounded number of old runs; return how many."""
    old = (
        select(CronRun.runid)
        .where(CronRun.start_time < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, age_s))
        .limit(most)
    )
    result: Any = session.execute(  # Any: CursorResult
        delete(CronRun).where(CronRun.runid.in_(old), CronRun.status != "due")
    )
    return int(result.rowcount)


# --- the scheduler's own ---------------------------------------------------------------------


def plans(session: Session) -> list[Plan]:
    """Return the enabled crons as the ticker needs them."""
    query = select(
        CronSchedule.id,
        CronSchedule.schedule,
        CronSchedule.timezone,
        CronSchedule.anchor_at,
        CronSchedule.last_tick_at,
    ).where(CronSchedule.enabled)
    return [Plan(*row) for row in session.execute(query)]


def last_minute(session: Session, *, otherwise: datetime) -> datetime:
    """Return the last handled minute; at the first boot note and return ``otherwise``."""
    session.execute(
        upsert(SchedulerState).values(id=1, last_minute=otherwise).on_conflict_do_nothing()
    )
    return session.execute(select(SchedulerState.last_minute)).scalar_one() or otherwise


# Calendar schedules are caught up from ``last_minute`` alone, so only intervals move
# ``last_tick_at``. An interval cron never has more than one tick pending; a cron that was changed or disabled
# meanwhile has none of its old ones.
TICK = text(f"""
WITH tick AS (
    SELECT * FROM unnest(CAST(:cron_id AS uuid[]), CAST(:scheduled_for AS timestamptz[]),
        CAST(:interval AS boolean[])) AS t(cron_id, scheduled_for, is_interval)
), fired AS (
    INSERT INTO {SCHEMA}.cron_runs (cron_id, scheduled_for, status, start_time)
    SELECT t.cron_id, t.scheduled_for, 'due', clock_timestamp() FROM tick t
    JOIN {SCHEMA}.cron_schedules c ON c.id = t.cron_id AND c.enabled
    WHERE NOT (t.is_interval AND EXISTS (
        SELECT FROM {SCHEMA}.cron_runs r WHERE r.cron_id = t.cron_id AND r.status = 'due'
    ))
    ON CONFLICT (cron_id, scheduled_for) DO NOTHING
    RETURNING runid
), moved AS (
    UPDATE {SCHEMA}.cron_schedules c SET last_tick_at = t.last
    FROM (SELECT cron_id, max(scheduled_for) AS last, bool_or(is_interval) AS is_interval
        FROM tick GROUP BY cron_id) t
    WHERE c.id = t.cron_id AND t.is_interval
), noted AS (
    UPDATE {SCHEMA}.scheduler_state
    SET last_minute = greatest(last_minute, CAST(:minute AS timestamptz))
)
SELECT count(*) FROM fired
""")  # noqa: S608 - as above


def write_ticks(session: Session, ticks: Iterable[Tick], *, minute: datetime) -> int:
    """Write down in one statement what is due, and the minute that is handled by that.

    Returns:
        How many runs wait to be fired because of it.
    """
    listed = list(ticks)
    values = {
        "cron_id": [str(tick.cron_id) for tick in listed],
        "scheduled_for": [tick.scheduled_for for tick in listed],
        "interval": [tick.interval for tick in listed],
        "minute": minute,
    }
    return int(session.execute(TICK, values).scalar_one())


STALE_DUE = text(f"""
SELECT EXISTS (SELECT FROM {SCHEMA}.cron_runs WHERE status = 'due'
    AND start_time < clock_timestamp() - make_interval(secs => :age_s))
""").bindparams(bindparam("age_s"))  # noqa: S608 - as above


def has_stale_due(session: Session, *, age_s: float) -> bool:
    """Tell whether a tick waits longer than it should."""
    return bool(session.execute(STALE_DUE, {"age_s": age_s}).scalar_one())


def drop_all(session: Session, app_id: str) -> None:
    """Delete all crons of an app."""
    session.execute(delete(CronSchedule).where(CronSchedule.app_id == app_id))


def touch(session: Session, cron: CronSchedule) -> None:
    """Note the time of a change, even of one that changes nothing."""
    session.execute(
        update(CronSchedule)
        .where(CronSchedule.id == cron.id)
        .values(updated_at=func.clock_timestamp())
    )
