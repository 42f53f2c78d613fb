"""Questions to people: who sees them, who may answer, what an answer sets going.

Source: REST contract part 40, section 1.12.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.agents import repository as agent_rows
from app.agents import run_repository as repository
from app.agents import runs
from app.agents.models import AgentApproval, AgentRun
from app.audit.security import SecurityEventKind
from app.auth import service as auth_service
from app.core.actor import Actor
from app.core.errors import Conflict, Forbidden, Invalid, NotFound
from app.core.uow import UnitOfWork

MANAGE = "admin:agents.manage"
DECISIONS = {"approve": "approved", "reject": "rejected"}
MAX_REASON = 1000


def list_pending(session: Session, actor: Actor, *, app_id: str) -> list[AgentApproval]:
    """Return the open approvals an actor may decide, oldest first."""
    if agent_rows.agent(session, app_id) is None:
        return []
    invoker = None if actor.can(MANAGE) else actor.user_id
    return repository.pending_approvals(session, app_id, invoker_id=invoker)


def checked_action(action: object, reason: str | None) -> str:
    """Return the action of a request.

    Raises:
        Invalid: it is none, or the reason is too long.
    """
    if not isinstance(action, str) or action not in DECISIONS:
        raise Invalid("action must be 'approve' or 'reject'")
    if reason is not None and len(reason) > MAX_REASON:
        raise Invalid(f"reason must be at most {MAX_REASON} characters")
    return action


def decide(
    uow: UnitOfWork,
    actor: Actor,
    *,
    app_id: str | None,
    approval_id: UUID,
    action: str,
    reason: str | None = None,
) -> None:
    """Approve or reject one call; the run goes on once nothing of it is open.

    Args:
        uow: the unit of work.
        actor: who decides.
        app_id: the app in the path; None = any.
        approval_id: the approval.
        action: ``approve`` or ``reject``.
        reason: shown to the model on a rejection.

    Raises:
        NotFound: no such approval under that app.
        Forbidden: neither the run's invoker nor a manager of agents.
        Conflict: it is decided already.

    Locks: the root run, then the approval; the first answer wins.
    """
    found = repository.approval(uow.session, approval_id)
    if found is None or app_id not in {None, found.app_id, found.root_app_id}:
        raise NotFound("approval not found")
    if not actor.can(MANAGE) and (actor.user_id is None or found.invoker_id != actor.user_id):
        raise Forbidden("you may not decide this approval")
    root = _lock_root(uow.session, found)
    locked = repository.approval(uow.session, approval_id, lock=True)
    if locked is None or root is None:
        raise NotFound("approval not found")
    if locked.status != "pending":
        raise Conflict(f"approval is already {locked.status}")
    locked.status = DECISIONS[action]
    locked.decided_by = actor.user_id
    locked.decision_reason = reason if action == "reject" else None
    locked.decided_at = func.now()
    # Whether anything is open is asked right below.
    uow.session.flush()
    auth_service.record_security_event(
        uow.session,
        SecurityEventKind.APPROVAL_DECIDED,
        actor_id=actor.user_id,
        subject_id=locked.invoker_id,
        approval=str(locked.id),
        app=locked.app_id,
        tool=locked.tool_name,
        decision=locked.status,
        reason=locked.decision_reason,
    )
    runs.resume_if_answered(uow, root)


def expire(uow: UnitOfWork, approval_id: UUID) -> None:
    """Close an approval whose time is over; the run goes on without the call."""
    found = repository.approval(uow.session, approval_id)
    if found is None:
        return
    root = _lock_root(uow.session, found)
    locked = repository.approval(uow.session, approval_id, lock=True)
    if locked is None or locked.status != "pending" or root is None:
        return
    locked.status = "expired"
    locked.decided_at = func.now()
    uow.session.flush()
    runs.resume_if_answered(uow, root)


def _lock_root(session: Session, approval: AgentApproval) -> AgentRun | None:
    run = repository.run(session, approval.run_id)
    if run is None:
        return None
    return repository.run(session, run.parent_run_id or run.id, lock=True)
