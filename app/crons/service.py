"""Crons: who may do what with them, triggers, and the manifest's list.

Source: REST contract part 30, section 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.apps.events import AppInstalled, AppUninstalled
from app.auth import service as auth_service
from app.core.actor import Actor
from app.core.clock import utc_now
from app.core.errors import Forbidden, Invalid, NotFound
from app.core.ids import parse_uuid
from app.core.schedule import Calendar, load_zone, parse_schedule
from app.core.uow import UnitOfWork
from app.crons import firing, repository, rules
from app.crons.events import CronCreated, CronDeleted
from app.crons.models import CronRun, CronSchedule
from app.jobs import service as jobs_service
from app.rbac import acting
from config.settings import JobSettings

MAX_RUNS = 500
MAX_NEXT = 100


@dataclass(frozen=True, slots=True)
class NewCron:
    """Fields of a cron to create."""

    name: str
    schedule: str
    timezone: str | None
    payload: Any  # Any: a JSON value
    overlap_policy: str
    enabled: bool = True


def create(
    uow: UnitOfWork, actor: Actor, *, app_id: str, new: NewCron, run_as: object = None
) -> CronSchedule:
    """Create a cron owned by the actor, or by a principal the actor may act for.

    Raises:
        Invalid: a field breaks a rule, or the name is taken.
        Forbidden: the actor may not act for that owner.
        NotFound: no such app.
    """
    owner = _owner(uow.session, actor, run_as)
    for field in ("name", "schedule", "timezone", "payload", "overlap_policy"):
        rules.check(field, getattr(new, field))
    apps_service.require(uow.session, app_id)
    cron = CronSchedule(
        app_id=app_id,
        created_by=owner,
        source="api",
        pg_job_id=repository.next_pg_job_id(uow.session) if new.enabled else None,
        name=new.name,
        schedule=new.schedule,
        timezone=new.timezone,
        payload=new.payload,
        overlap_policy=new.overlap_policy,
        enabled=new.enabled,
    )
    try:
        with uow.session.begin_nested():
            uow.session.add(cron)
    except IntegrityError as exc:
        raise _explain(exc, app_id, new.name) from exc
    uow.session.refresh(cron)
    uow.emit(CronCreated(cron.id, app_id, owner))
    repository.announce_change(uow.session)
    return cron


def list_of_app(session: Session, actor: Actor, *, app_id: str) -> list[CronSchedule]:
    """Return an app's crons by name: all for those who manage others', else the actor's own."""
    apps_service.require(session, app_id)
    if _manages_others(actor, app_id):
        return repository.of_app(session, app_id)
    return repository.of_app(session, app_id, owner=actor.user_id) if actor.user_id else []


def list_readable(session: Session, actor: Actor) -> list[CronSchedule]:
    """Return the crons of every app the actor may read crons of, by app and name."""
    apps = [a for a in repository.app_ids(session) if actor.can(f"app:{a}:cron.read")]
    whole = [app_id for app_id in apps if _manages_others(actor, app_id)]
    own = [app_id for app_id in apps if app_id not in set(whole)]
    return repository.of_apps(session, whole=whole, own=own, owner=actor.user_id)


def update(
    uow: UnitOfWork, actor: Actor, *, app_id: str, cron_id: str, changes: Mapping[str, Any]
) -> CronSchedule:
    """Change the given fields of a cron. Locks its row.

    Raises:
        Invalid: a field breaks a rule, or the name is taken.
        Forbidden: it belongs to somebody else.
        NotFound: no such app or cron.
    """
    wanted = parse_uuid(cron_id)
    for field, value in changes.items():
        rules.check(field, value)
    cron = _find(uow.session, actor, app_id=app_id, cron_id=wanted, lock=True)
    try:
        with uow.session.begin_nested():
            _apply(uow.session, cron, changes)
    except IntegrityError as exc:
        raise _explain(exc, app_id, str(changes.get("name"))) from exc
    repository.touch(uow.session, cron)
    uow.session.refresh(cron)
    repository.announce_change(uow.session)
    return cron


def delete(uow: UnitOfWork, actor: Actor, *, app_id: str, cron_id: str) -> None:
    """Delete a cron and its history; jobs it queued stay.

    Raises:
        Forbidden: it belongs to somebody else.
        NotFound: no such app or cron.
    """
    cron = _find(uow.session, actor, app_id=app_id, cron_id=parse_uuid(cron_id), lock=True)
    _drop(uow, cron)
    repository.announce_change(uow.session)


def trigger(uow: UnitOfWork, actor: Actor, *, app_id: str, cron_id: str) -> int:
    """Queue one job of a cron now, whatever its schedule, state and policy; return its id.

    Raises:
        Forbidden: it belongs to somebody else.
        Invalid: nobody enabled owns it.
        NotFound: no such app or cron.
    """
    cron = _find(uow.session, actor, app_id=app_id, cron_id=parse_uuid(cron_id))
    owner = cron.created_by
    if owner is None or auth_service.find_enabled(uow.session, owner) is None:
        raise Invalid(firing.NO_OWNER)
    routes = firing.Routes(uow.session, [app_id])
    msg_id = jobs_service.put(uow, [firing.job_of(cron.id, app_id, cron.payload, owner, routes)])[0]
    repository.add_manual_run(uow.session, cron.id, msg_id)
    return msg_id


def runs(session: Session, actor: Actor, *, app_id: str, cron_id: str, limit: int) -> list[CronRun]:
    """Return what a cron's ticks and triggers did, newest first."""
    cron = _find(session, actor, app_id=app_id, cron_id=parse_uuid(cron_id))
    return repository.runs(session, cron.id, most=min(limit, MAX_RUNS))


def upcoming(
    session: Session, actor: Actor, *, app_id: str, cron_id: str, count: int
) -> list[datetime]:
    """Return the next times a cron fires, as if it were enabled and never late."""
    cron = _find(session, actor, app_id=app_id, cron_id=parse_uuid(cron_id))
    schedule, moment = parse_schedule(cron.schedule), utc_now()
    times: list[datetime] = []
    if not isinstance(schedule, Calendar):
        moment = max(cron.last_tick_at or cron.anchor_at, cron.anchor_at)
        behind = max(0, (utc_now() - moment) // schedule.period)
        return [moment + schedule.period * (behind + n + 1) for n in range(count)]
    zone = load_zone(cron.timezone)
    while len(times) < count:
        found = schedule.next_after(moment, zone)
        if found is None:
            break
        times.append(found)
        moment = found
    return times


def has_stale_due(session: Session, *, age_s: float) -> bool:
    """Tell whether a tick waits to be fired for longer than ``age_s`` seconds."""
    return repository.has_stale_due(session, age_s=age_s)


def prune(uow: UnitOfWork, jobs: JobSettings) -> int:
    """Delete a bounded number of old runs; return how many."""
    return repository.prune_runs(uow.session, age_s=jobs.cron_run_days * 86400)


# --- subscribers -----------------------------------------------------------------------------


def sync_manifest(uow: UnitOfWork, event: AppInstalled) -> None:
    """Make an app's crons agree with its manifest, in the transaction of the install.

    Raises:
        Invalid: an entry breaks a rule; the install fails with it.
    """
    wanted = rules.read_manifest(list(event.manifest.get("crons") or []))
    names = {cron.name for cron in wanted}
    leftover = [
        c for c in repository.manifest_made(uow.session, event.app_id) if c.name not in names
    ]
    for cron in leftover:
        _drop(uow, cron)
    for entry in wanted:
        _sync_one(uow, event, entry)
    if wanted or leftover:
        repository.announce_change(uow.session)


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete an app's crons and jobs with it."""
    for cron in repository.of_app(uow.session, event.app_id):
        uow.emit(CronDeleted(cron.id, cron.app_id))
    repository.drop_all(uow.session, event.app_id)
    repository.announce_change(uow.session)


def _sync_one(uow: UnitOfWork, event: AppInstalled, entry: rules.ManifestCron) -> None:
    session = uow.session
    cron = repository.find_by_name(session, event.app_id, entry.name)
    changes = {
        "schedule": entry.schedule,
        "timezone": entry.timezone,
        "payload": entry.payload,
        "overlap_policy": entry.overlap_policy,
        "enabled": True,
    }
    if cron is not None:
        _apply(session, cron, changes)
        cron.source = "manifest"
        repository.touch(session, cron)
        return
    cron = CronSchedule(
        app_id=event.app_id,
        name=entry.name,
        source="manifest",
        created_by=event.actor.user_id,
        pg_job_id=repository.next_pg_job_id(session),
        **changes,
    )
    session.add(cron)
    session.flush()  # the row must exist before subscribers refer to it
    if cron.created_by is not None:
        uow.emit(CronCreated(cron.id, event.app_id, cron.created_by))


def _apply(session: Session, cron: CronSchedule, changes: Mapping[str, Any]) -> None:
    """Set fields; a new schedule or a re-enabled one starts afresh, with no catching up."""
    before = (cron.schedule, cron.timezone, cron.enabled)
    for field, value in changes.items():
        setattr(cron, field, value)
    if (cron.schedule, cron.timezone, cron.enabled) != before:
        cron.anchor_at = func.clock_timestamp()
        cron.last_tick_at = None
        cron.pg_job_id = repository.next_pg_job_id(session) if cron.enabled else None


def _drop(uow: UnitOfWork, cron: CronSchedule) -> None:
    uow.emit(CronDeleted(cron.id, cron.app_id))
    repository.drop(uow.session, cron)


def _find(
    session: Session, actor: Actor, *, app_id: str, cron_id: UUID, lock: bool = False
) -> CronSchedule:
    apps_service.require(session, app_id)
    cron = repository.find(session, app_id, cron_id, lock=lock)
    if cron is None:
        raise NotFound(f"cron '{cron_id}' not found")
    if not _manages_others(actor, app_id) and (
        cron.created_by is None or cron.created_by != actor.user_id
    ):
        raise Forbidden("not the owner of this cron")
    return cron


def _manages_others(actor: Actor, app_id: str) -> bool:
    return actor.can(f"app:{app_id}:cron.manage_others")


def _owner(session: Session, actor: Actor, run_as: object) -> UUID:
    owner = acting.owner_of_work(session, actor, run_as, field="runAs")
    if owner is None:
        raise Invalid("invalid runAs")
    return owner


def _explain(exc: IntegrityError, app_id: str, name: str) -> Exception:
    constraint = getattr(getattr(exc.orig, "diag", None), "constraint_name", None)
    if constraint == "uq_cron_schedules_app_id_name":
        return Invalid(f"cron '{name}' already exists in app '{app_id}'")
    return exc
