"""The life of a run in Postgres: taken, parked, handed on, ended.

Every change locks the row and checks who holds the run, so a worker that was thought dead and
comes back changes nothing.

Source: REST contract part 40, section 1.7; ADR 0007.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.agents import run_repository as repository
from app.agents import streams
from app.agents.messages import ResumeRun
from app.agents.models import AgentRun, AgentSession
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.jobs import service as jobs_service

JSONObject = dict[str, Any]  # Any: JSON values

ENDED = frozenset({"completed", "failed", "cancelled"})
CANCELLED = "run was cancelled"
LOST = "agent worker was lost"


class NotHolding(Exception):
    """The run ended or belongs to another worker now; whoever sees this stops quietly."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a worker knows about a run it holds.

    Attributes:
        scope: the frozen effective permissions; None before the first start.
        agent_scope: the agent's own permissions at the start.
        config: the snapshot made when the run was requested.
    """

    id: UUID
    session_id: UUID
    app_id: str
    root_app_id: str
    parent_run_id: UUID | None
    invoker_id: UUID | None
    source: str
    scope: Permissions | None
    agent_scope: Permissions | None
    config: JSONObject
    transcript: list[JSONObject]
    state_data: JSONObject
    job: JSONObject | None
    response: str
    tokens: int
    tokens_known: bool
    active_seconds: float
    owner: str
    seq: int


def take(platform: Platform, run_id: UUID, owner: str) -> Run | None:
    """Make a waiting run this worker's own.

    Returns:
        None when it is in another state: somebody else has it, or it ended.
    """
    with platform.uow() as uow:
        row = repository.run(uow.session, run_id, lock=True)
        if row is None or row.state != "queued":
            return None
        if row.cancel_requested:
            end(platform, uow, row, "cancelled", error=CANCELLED)
            return None
        return hold(platform, uow, row, owner)


def hold(platform: Platform, uow: UnitOfWork, row: AgentRun, owner: str) -> Run:
    """Make a locked run its worker's own and return what it needs to know."""
    row.state = "running"
    row.owner = owner
    row.heartbeat_at = func.now()
    if row.started_at is None:
        row.started_at = func.now()
    repository.set_session_status(uow.session, row.session_id, "running")
    # The row's own values are read right away.
    uow.session.flush()
    stored = repository.last_event(uow.session, row.id)
    return _held(row, owner, streams.next_start(platform.redis, row.id, stored))


def _held(row: AgentRun, owner: str, seq: int) -> Run:
    return Run(
        id=row.id,
        session_id=row.session_id,
        app_id=row.app_id,
        root_app_id=row.root_app_id,
        parent_run_id=row.parent_run_id,
        invoker_id=row.invoker_id,
        source=row.source,
        scope=None if row.scope is None else Permissions.of(row.scope),
        agent_scope=None if row.agent_scope is None else Permissions.of(row.agent_scope),
        config=row.config,
        transcript=list(row.transcript),
        state_data=dict(row.state_data),
        job=row.job,
        response=row.response,
        tokens=row.tokens,
        tokens_known=row.tokens_known,
        active_seconds=row.active_seconds,
        owner=owner,
        seq=max(seq, int(row.state_data.get("seq", 0))),
    )


def holding(session: Session, run_id: UUID, owner: str) -> AgentRun:
    """Return the locked row of a run this worker holds.

    Raises:
        NotHolding: it does not any more.
    """
    row = repository.run(session, run_id, lock=True)
    if row is None or row.owner != owner or row.state in ENDED:
        raise NotHolding(str(run_id))
    return row


def park(uow: UnitOfWork, row: AgentRun, *, elapsed_s: float) -> None:
    """Let a run wait for decisions without a worker."""
    row.state = "waiting_approval"
    row.owner = None
    row.active_seconds += elapsed_s
    repository.set_session_status(uow.session, row.session_id, "waiting_approval")
    uow.session.flush()
    if row.parent_run_id is None:
        resume_if_answered(uow, row)


def requeue(uow: UnitOfWork, row: AgentRun, *, elapsed_s: float = 0.0) -> None:
    """Hand a run on: the next free worker takes it up."""
    for child in repository.children(uow.session, row.id):
        if child.state == "running":
            requeue(uow, child)
    row.state = "queued"
    row.owner = None
    row.queued_at = func.now()
    row.active_seconds += elapsed_s
    repository.set_session_status(uow.session, row.session_id, "running")
    if row.parent_run_id is None:
        uow.send_after_commit(ResumeRun(str(row.id)))


def resume_if_answered(uow: UnitOfWork, root: AgentRun) -> bool:
    """Queue a parked run when no question of it or its sub-agents is open; tell if it was.

    The row of the root run is locked by the caller.
    """
    if root.state != "waiting_approval" or root.owner is not None:
        return False
    kids = [c for c in repository.children(uow.session, root.id) if c.state not in ENDED]
    if repository.any_pending(uow.session, [root.id, *(kid.id for kid in kids)]):
        return False
    for kid in kids:
        requeue(uow, kid)
    requeue(uow, root)
    return True


def end(
    platform: Platform,
    uow: UnitOfWork,
    row: AgentRun,
    state: str,
    *,
    error: str | None = None,
    response: str | None = None,
    stream: streams.RunStream | None = None,
) -> None:
    """End a locked run: message, tokens, open calls, the job behind it, the terminal event.

    Args:
        platform: the process's platform.
        uow: the unit of work.
        row: the run, locked.
        state: completed, failed or cancelled.
        error: text for failed and cancelled.
        response: the whole streamed text; None = what can be found of it.
        stream: the worker's end of the stream; None = nobody writes to it any more.
    """
    session = uow.session
    for child in repository.children(session, row.id, lock=True):
        if child.state not in ENDED:
            end(platform, uow, child, "cancelled", error=error or CANCELLED)
    if response is None:
        response = streams.streamed_text(platform.redis, row.id)
        response = row.response if response is None else response
    row.state = state
    row.error = error
    row.response = response
    row.owner = None
    row.finished_at = func.now()
    repository.cancel_approvals(session, row.id)
    repository.end_open_calls(session, row.id, error or "the run ended")
    _keep_answer(session, row)
    _settle_job(uow, row)
    if stream is None:
        stored = repository.last_event(session, row.id)
        seq = streams.next_start(platform.redis, row.id, stored)
        stream = streams.RunStream(
            platform, run_id=row.id, app_id=row.app_id, session_id=row.session_id, seq=seq
        )
    if error is None:
        tokens = row.tokens if row.tokens_known else None
        stream.event(uow, "done", {"response": response, "tokens": tokens})
    else:
        stream.event(uow, "error", {"error": error})


def _keep_answer(session: Session, row: AgentRun) -> None:
    if row.response or row.state == "completed":
        message = repository.add_message(
            session,
            session_id=row.session_id,
            run_id=row.id,
            role="assistant",
            content=row.response,
            token_count=row.tokens,
        )
        repository.link_calls(session, row.id, message.id)
    found = session.get(AgentSession, row.session_id, with_for_update=True)
    if found is not None:
        found.total_tokens += row.tokens
        found.turn_count += 1 if row.state == "completed" else 0
        found.status = "active"
        found.updated_at = func.now()


def _settle_job(uow: UnitOfWork, row: AgentRun) -> None:
    if row.job is None:
        return
    if row.state == "completed":
        jobs_service.complete(uow, row.job["msg_id"])
    else:
        jobs_service.fail(uow, row.job["msg_id"], row.error or row.state)


def request_cancel(platform: Platform, uow: UnitOfWork, row: AgentRun) -> None:
    """Cancel a locked run: at once when no worker holds it, else at its next step."""
    row.cancel_requested = True
    if row.owner is None:
        end(platform, uow, row, "cancelled", error=CANCELLED)
