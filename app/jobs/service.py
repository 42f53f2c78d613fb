"""Jobs: enqueue, list, and the life of a delivery.

Source: REST contract part 30, sections 9 and 13.1; ADR 0004.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.apps.events import AppUninstalled
from app.core.actor import Actor
from app.core.errors import Conflict, Failed, Invalid, NotFound
from app.core.ids import MsgId, check_app_id
from app.core.uow import UnitOfWork
from app.jobs import repository
from app.jobs.deliveries import AGENT, WORKER, complete, fail, hold, may_run
from app.jobs.messages import TakeTurn
from app.jobs.repository import QUEUE, State
from app.pgqueue.types import Outgoing, Selection
from app.rbac import acting
from config.settings import JobSettings

MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_LIMIT = 1000
MAX_DELAY_S = 86_400


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue.

    Attributes:
        payload: any JSON value, at most 1 MiB encoded.
        user_id: its owner, in whose name it runs; None = it can only become a dead letter.
        source: api, worker, cron or hook; never taken from a payload.
        route: worker or agent.
    """

    app_id: str
    payload: Any  # Any: a JSON value
    user_id: UUID | None
    source: str = "api"
    route: str = WORKER
    delay_s: int = 0
    priority: int = 0
    max_attempts: int = 1
    cron_id: UUID | None = None
    hook_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """Answer to an enqueue; ``created`` is false when an idempotency key was seen before."""

    msg_id: int
    created: bool = True


# --- enqueue ---------------------------------------------------------------------------------


def enqueue(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str,
    payload: Any,  # Any: a JSON value
    user_id: object = None,
    delay_s: int = 0,
    source: str = "api",
    priority: int = 0,
    max_attempts: int = 1,
    idempotency_key: str | None = None,
) -> Enqueued:
    """Put one job on the app's queue and ask for a turn after commit.

    Args:
        uow: the transaction whose commit makes the job exist.
        actor: who enqueues.
        app_id: whose worker gets it.
        payload: JSON value, at most 1 MiB encoded; stored as given.
        user_id: text of the owner's id; None is the actor, others pass the act-as gate.
        delay_s: seconds until it becomes visible, 0 to 86400.
        source: api or worker.
        priority: -10 to 10, higher first.
        max_attempts: 1 to 20; attempts that may end in a handler error.
        idempotency_key: the same key of the app within 24 h enqueues nothing.

    Raises:
        Invalid: a value breaks a rule of the contract.
        Forbidden: the actor may not act for the owner.
        NotFound: the app is not installed.
    """
    owner = acting.owner_of_work(uow.session, actor, user_id, field="user_id")
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise Invalid(f"delay must be 0-{MAX_DELAY_S}")
    job = NewJob(
        app_id,
        payload,
        owner,
        source,
        delay_s=delay_s,
        priority=priority,
        max_attempts=max_attempts,
    )
    message = outgoing(job)
    require_app(uow.session, app_id)
    if idempotency_key is not None:
        known = repository.reserve_key(uow.session, app_id, idempotency_key)
        if known is not None:
            return Enqueued(known, created=False)
    msg_id = QUEUE.send(uow.session, [message])[0]
    if idempotency_key is not None:
        repository.fill_key(uow.session, app_id, idempotency_key, msg_id)
    if delay_s == 0:
        uow.send_after_commit(TakeTurn(app_id))
    return Enqueued(msg_id)


def enqueue_batch(
    uow: UnitOfWork, actor: Actor, *, app_id: str, jobs: Sequence[dict[str, Any]]
) -> list[int]:
    """Put 1 to 1000 jobs on the app's queue, all or none.

    Each of ``jobs`` holds keyword arguments of ``enqueue``, without ``app_id``.

    Returns:
        Their ids in the given order.
    """
    if any(job.get("idempotency_key") is not None for job in jobs):
        return [enqueue(uow, actor, app_id=app_id, **job).msg_id for job in jobs]
    messages = []
    for job in jobs:
        values = {k: v for k, v in job.items() if k not in {"user_id", "idempotency_key"}}
        owner = acting.owner_of_work(uow.session, actor, job.get("user_id"), field="user_id")
        messages.append(outgoing(NewJob(app_id=app_id, user_id=owner, **values)))
    require_app(uow.session, app_id)
    uow.send_after_commit(TakeTurn(app_id))
    return QUEUE.send(uow.session, messages)


def put(uow: UnitOfWork, jobs: Sequence[NewJob]) -> list[MsgId]:
    """Put jobs of other slices on their queues, whose rules were checked there.

    Returns:
        Their ids in the given order.
    """
    for app_id in dict.fromkeys(job.app_id for job in jobs):
        uow.send_after_commit(TakeTurn(app_id))
    return [MsgId(n) for n in QUEUE.send(uow.session, [outgoing(job) for job in jobs])]


def wake(uow: UnitOfWork, app_id: str) -> None:
    """Give an app a turn after the commit: jobs may have been queued by a database trigger."""
    uow.send_after_commit(TakeTurn(app_id))


def put_selected(uow: UnitOfWork, app_ids: Collection[str], selection: Selection) -> list[MsgId]:
    """Put jobs on their queues that Postgres makes of rows of another slice.

    Args:
        uow: the transaction whose commit makes the jobs exist.
        app_ids: the apps they belong to.
        selection: yields ``columns`` of the queue and ``place``.

    Returns:
        Their ids in the order of ``place``.
    """
    for app_id in app_ids:
        uow.send_after_commit(TakeTurn(app_id))
    return [MsgId(n) for n in QUEUE.send_selected(uow.session, selection)]


def outgoing(job: NewJob) -> Outgoing:
    """Return the message of a job.

    Raises:
        Invalid: the payload is no JSON, or too large.
    """
    try:
        encoded = json.dumps(
            job.payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        size = len(encoded.encode())
    except (ValueError, RecursionError) as exc:
        raise Invalid("payload is not valid JSON") from exc
    if size > MAX_PAYLOAD_BYTES:
        raise Invalid("payload exceeds 1 MiB")
    values = {
        "app_id": job.app_id,
        "route": job.route,
        "user_id": _text(job.user_id),
        "source": job.source,
        "cron_id": _text(job.cron_id),
        "hook_id": _text(job.hook_id),
        "payload": encoded,
        "max_attempts": str(job.max_attempts),
    }
    return Outgoing(values, delay_s=job.delay_s, priority=job.priority)


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def require_app(session: Session, app_id: str) -> None:
    """Check that an app is installed, without reading its manifest.

    Raises:
        Forbidden: the id is a schema that is off limits.
        NotFound: there is no such app.
    """
    if not apps_service.exists(session, check_app_id(app_id)):
        raise NotFound(f"no app '{app_id}'")


# --- look ------------------------------------------------------------------------------------


def page(
    session: Session, *, app_id: str, state: State, limit: int, before: int | None = None
) -> str:
    """Return jobs of an app as the JSON text of an array, newest first."""
    require_app(session, app_id)
    return repository.page(session, app_id, state, most=min(limit, MAX_LIMIT), before=before)


def show(session: Session, *, app_id: str, msg_id: int) -> str:
    """Return one job in any state as JSON text.

    Raises:
        NotFound: the app has no such job.
    """
    require_app(session, app_id)
    found = repository.one(session, app_id, msg_id)
    if found is None:
        raise no_job(msg_id)
    return found


def no_job(msg_id: int) -> NotFound:
    """Return the error of an id that names no job of the app."""
    return NotFound(f"no job {msg_id}")


# --- change ----------------------------------------------------------------------------------


def cancel(uow: UnitOfWork, *, app_id: str, msg_id: int) -> bool:
    """Move a job to the dead letters; tell whether it was being worked on.

    Raises:
        NotFound: the app has no such job.
        Conflict: it ended already.
    """
    require_app(uow.session, app_id)
    state = repository.state_of(uow.session, app_id, msg_id)
    if state is None:
        raise no_job(msg_id)
    if state in {State.ARCHIVED, State.FAILED}:
        raise Conflict(f"job {msg_id} has ended")
    QUEUE.bury(uow.session, msg_id, "cancelled")
    return state is State.RUNNING


def retry(uow: UnitOfWork, *, app_id: str, msg_id: int | None = None) -> list[int]:
    """Put one failed job, or all of an app, back on the queue with ``read_ct`` 0.

    Raises:
        NotFound: the app has no such job.
        Conflict: the job did not fail.
    """
    require_app(uow.session, app_id)
    if msg_id is not None:
        state = repository.state_of(uow.session, app_id, msg_id)
        if state is None:
            raise no_job(msg_id)
        if state is not State.FAILED:
            raise Conflict(f"job {msg_id} has not failed")
    revived = QUEUE.revive(uow.session, app_id, None if msg_id is None else [msg_id])
    uow.send_after_commit(TakeTurn(app_id))
    return sorted(revived)


def extend(uow: UnitOfWork, *, app_id: str, msg_id: int, seconds: float) -> None:
    """Hide an in-flight job for ``seconds`` from now.

    Raises:
        Invalid: not 1 to 3600 seconds.
        Failed: the job is not in flight.
    """
    if isinstance(seconds, bool) or not 1 <= seconds <= 3600:
        raise Invalid("seconds must be 1-3600")
    if repository.state_of(uow.session, app_id, msg_id) is not State.RUNNING:
        raise Failed(f"job {msg_id} is not in flight")
    QUEUE.set_vt(uow.session, msg_id, seconds)


def note_progress(
    uow: UnitOfWork, *, app_id: str, msg_id: int, progress: float, note: str | None = None
) -> None:
    """Note how far a running job is.

    Raises:
        Invalid: not between 0 and 1.
    """
    if isinstance(progress, bool) or not 0 <= progress <= 1:
        raise Invalid("progress must be 0-1")
    repository.set_progress(
        uow.session, app_id, msg_id, progress, None if note is None else note[:500]
    )


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete everything of an app: queued, archived, dead, keys."""
    QUEUE.forget(uow.session, event.app_id)
    repository.drop_keys(uow.session, event.app_id)


# --- the queue as a whole ---


def visible_lanes(session: Session) -> dict[str, set[str]]:
    """Return the apps with visible jobs, and the routes those wait on."""
    lanes: dict[str, set[str]] = {}
    for app_id, route in QUEUE.visible_lanes(session):
        lanes.setdefault(app_id, set()).add(route)
    return lanes


def queued_crons(session: Session, cron_ids: Collection[UUID]) -> set[UUID]:
    """Return those crons of which the queue holds a message, waiting or in flight."""
    return repository.queued_crons(session, cron_ids)


def prune(uow: UnitOfWork, jobs: JobSettings) -> int:
    """Delete a bounded number of old archived jobs, dead letters and keys; return how many."""
    repository.drop_keys(uow.session)
    return QUEUE.prune(
        uow.session,
        archive_s=jobs.archive_days * 86400 or None,
        dead_s=jobs.dead_letter_days * 86400 or None,
    )


__all__ = [
    "AGENT",
    "WORKER",
    "Enqueued",
    "NewJob",
    "State",
    "complete",
    "fail",
    "hold",
    "may_run",
]
