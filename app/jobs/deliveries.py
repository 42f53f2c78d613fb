"""Deliveries in the database: claim, settle, hold.

Source: REST contract part 30, sections 9.3 and 13.1; ADR 0004.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.uow import UnitOfWork
from app.jobs.delivery import Assignment, Settlement, TakenBatch
from app.jobs.repository import QUEUE
from app.pgqueue.types import Delivery, Failure, Receipt, Release
from app.rbac import service as rbac_service
from app.workers import service as workers_service
from config.settings import JobSettings

WORKER = "worker"
AGENT = "agent"
NO_OWNER = "no enabled owner"
TOO_OFTEN = "exceeded max deliveries"
MAX_HOOKS = 16
HOOK_LOOP = f"hook loop: {MAX_HOOKS} hooks in a row"


def may_run(session: Session, app_id: str) -> bool:
    """Tell whether an app's jobs may be delivered: code, wanted running, not cooling."""
    return workers_service.runnable(session, app_id)


def take(uow: UnitOfWork, jobs: JobSettings, *, app_id: str, most: int) -> TakenBatch:
    """Deliver up to ``most`` visible jobs of an app, in the name of their owners.

    Jobs without an enabled owner, jobs that were delivered too often and jobs at the end of a long
    chain of hooks become dead letters. Ask
    ``may_run`` first: the jobs of a worker that may not run are not touched.
    """
    return _claim(uow, jobs, app_id=app_id, route=WORKER, most=most)


def take_for_agent(uow: UnitOfWork, jobs: JobSettings, *, app_id: str, most: int) -> TakenBatch:
    """Deliver messages that start agent runs, whatever the worker's state."""
    return _claim(uow, jobs, app_id=app_id, route=AGENT, most=most)


def _claim(uow: UnitOfWork, jobs: JobSettings, *, app_id: str, route: str, most: int) -> TakenBatch:
    deliveries = QUEUE.claim(
        uow.session,
        {"app_id": app_id, "route": route},
        quantity=most,
        vt_s=jobs.visibility_timeout.total_seconds(),
    )
    failures: list[Failure] = []
    assigned: list[Assignment] = []
    actors: dict[UUID | None, Actor | None] = {None: None}
    for delivery in deliveries:
        owner = delivery.body["user_id"]
        if owner not in actors:
            actors[owner] = rbac_service.load_actor(uow.session, owner)
        actor = actors[owner]
        # Attempts that ended with an answer are counted by ``max_attempts`` instead.
        unanswered = delivery.read_ct - delivery.attempts
        if jobs.max_deliveries and unanswered > jobs.max_deliveries:
            failures.append(Failure(delivery.receipt, TOO_OFTEN, uncount=True))
        elif actor is None:
            failures.append(Failure(delivery.receipt, NO_OWNER, uncount=True))
        elif _hooks_before(delivery) >= MAX_HOOKS:
            failures.append(Failure(delivery.receipt, HOOK_LOOP, uncount=True))
        else:
            depth = _hooks_before(delivery) + (delivery.body["hook_id"] is not None)
            assigned.append(Assignment(delivery, replace(actor, hook_depth=depth)))
    QUEUE.dead_letter(uow.session, failures)
    return TakenBatch(assigned, exhausted=len(deliveries) < most)


def _hooks_before(delivery: Delivery) -> int:
    """Return how many hooks led to the change that queued this job; 0 for any other job."""
    payload = delivery.body["payload"]
    if delivery.body["hook_id"] is None or not isinstance(payload, dict):
        return 0
    return int(payload.get("_depth", 0))


def settle(uow: UnitOfWork, settlements: Iterable[Settlement]) -> list[int]:
    """Write down how deliveries ended; what became stale meanwhile is left alone.

    Returns:
        Ids of the jobs that changed.
    """
    archived, failures, releases = [], [], []
    for settlement in settlements:
        if isinstance(settlement, Failure):
            failures.append(settlement)
        elif isinstance(settlement, Release):
            releases.append(settlement)
        else:
            archived.append(settlement.msg_id)
    return [
        *QUEUE.archive(uow.session, archived),
        *QUEUE.dead_letter(uow.session, failures),
        *QUEUE.release(uow.session, releases),
    ]


def complete(uow: UnitOfWork, msg_id: int) -> None:
    """Archive a message whose work another slice did, e.g. an agent run."""
    QUEUE.archive(uow.session, [msg_id])


def fail(uow: UnitOfWork, msg_id: int, reason: str) -> None:
    """Move a message whose work failed in another slice to the dead letters."""
    QUEUE.bury(uow.session, msg_id, reason)


def hold(uow: UnitOfWork, msg_id: int, seconds: float) -> None:
    """Keep a message hidden while another slice works on it."""
    QUEUE.set_vt(uow.session, msg_id, seconds)


def deadlines(session: Session, receipts: Sequence[Receipt]) -> dict[Receipt, float]:
    """Return the seconds until redelivery of those deliveries that are still the latest."""
    found = QUEUE.deadlines(session, [receipt.msg_id for receipt in receipts])
    return {
        receipt: found[receipt.msg_id][1]
        for receipt in receipts
        if found.get(receipt.msg_id, (0, 0.0))[0] == receipt.read_ct
    }
