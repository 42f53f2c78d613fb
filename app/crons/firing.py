"""From due ticks to jobs.

Source: REST contract part 30, sections 9.4, 10.2 and 13.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.auth import service as auth_service
from app.core.locks import AdvisoryLock, lock_shard
from app.core.uow import UnitOfWork
from app.crons import repository, rules
from app.crons.repository import DueRun, Outcome
from app.crons.ticker import SHARDS
from app.jobs import service as jobs_service
from app.jobs.service import NewJob
from app.workers import service as workers_service

NO_OWNER = "cron has no enabled owner"
BATCH = 4000


class Routes:
    """Who gets the jobs of each app's crons: its worker or its agent."""

    def __init__(self, session: Session, app_ids: Collection[str]) -> None:
        self._with_agent = {a for a in app_ids if apps_service.has_agent(session, a)}
        self._without_code = {
            app_id
            for app_id in self._with_agent
            if not workers_service.wanted(session, app_id).has_code
        }

    def of(self, app_id: str, *, has_message: bool) -> str:
        """Return the route of a cron's job; ``has_message``: there is a text for an agent."""
        if app_id in self._with_agent and (has_message or app_id in self._without_code):
            return jobs_service.AGENT
        return jobs_service.WORKER


def job_of(
    cron_id: UUID,
    app_id: str,
    payload: Any,  # Any: a JSON value
    owner: UUID,
    routes: Routes,
) -> NewJob:
    """Return the job that a trigger of a cron queues."""
    message = payload.get("message") if isinstance(payload, dict) else None
    return NewJob(
        app_id,
        rules.job_payload(payload, str(cron_id)),
        owner,
        source="cron",
        route=routes.of(app_id, has_message=isinstance(message, str)),
        cron_id=cron_id,
    )


def due_shards(session: Session, *, first: int = 0) -> list[int]:
    """Return the shards with due ticks in the order to fire them, from ``first`` on."""
    return sorted(repository.due_shards(session), key=lambda shard: (shard - first) % SHARDS)


def fire(uow: UnitOfWork, shard: int, *, most: int = BATCH) -> int:
    """Turn due ticks into jobs and write down what became of each, in this transaction.

    Crons are parted into shards. A shard is fired by one transaction at a time in the whole
    cluster, so that of two ticks of one cron only one can find the queue empty. Exactly one job
    per tick, whatever dies in between: a tick stays due until the transaction with its job
    commits.

    Returns:
        How many ticks were fired; fewer than ``most``: no more were due.
    """
    uow.session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10s'"))
    lock_shard(uow.session, AdvisoryLock.CRON_FIRE, shard)
    due = repository.take_due(uow.session, shard=shard, most=most)
    if due:
        refused = _refused(uow, due)
        queued = _queue(uow, [run for run in due if run.runid not in refused])
        repository.finish(uow.session, [*refused.values(), *queued])
    return len(due)


def _refused(uow: UnitOfWork, due: Sequence[DueRun]) -> dict[int, Outcome]:
    """Return the ticks without an owner, and those whose policy is to skip."""
    owners = {run.created_by for run in due if run.created_by is not None}
    enabled = {o for o in owners if auth_service.find_enabled(uow.session, UUID(o)) is not None}
    wary = {run.cron_id for run in due if run.overlap_policy == "skip"}
    busy = {str(c) for c in jobs_service.queued_crons(uow.session, [UUID(c) for c in wary])}
    refused: dict[int, Outcome] = {}
    for run in due:
        if not run.enabled or run.created_by not in enabled:
            refused[run.runid] = Outcome(run.runid, "failed", NO_OWNER)
        elif run.cron_id in busy:
            refused[run.runid] = Outcome(run.runid, "skipped", "previous job still queued")
        elif run.cron_id in wary:
            busy.add(run.cron_id)
    return refused


def _queue(uow: UnitOfWork, due: Sequence[DueRun]) -> list[Outcome]:
    if not due:
        return []
    app_ids = {run.app_id for run in due}
    routes = Routes(uow.session, app_ids)
    chosen = {run.runid: routes.of(run.app_id, has_message=run.has_message) for run in due}
    ids = jobs_service.put_selected(uow, app_ids, repository.jobs_of(chosen))
    return [
        Outcome(runid, "succeeded", f"enqueued msg {msg_id}", msg_id)
        for runid, msg_id in zip(sorted(chosen), ids, strict=True)
    ]
