"""SQL of runs, their calls, approvals and events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.agents.models import (
    Agent,
    AgentApproval,
    AgentEvent,
    AgentMessage,
    AgentRun,
    AgentSession,
    AgentToolCall,
)

ACTIVE = ("queued", "running", "waiting_approval")


def run(session: Session, run_id: UUID, *, lock: bool = False) -> AgentRun | None:
    """Return a run, locked for change if asked."""
    query = select(AgentRun).where(AgentRun.id == run_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def active_run_of_session(session: Session, session_id: UUID) -> UUID | None:
    """Return the session's run that has not ended."""
    return session.scalar(
        select(AgentRun.id).where(AgentRun.session_id == session_id, AgentRun.state.in_(ACTIVE))
    )


def children(session: Session, run_id: UUID, *, lock: bool = False) -> list[AgentRun]:
    """Return the runs of sub-agents of a run, oldest first."""
    query = select(AgentRun).where(AgentRun.parent_run_id == run_id).order_by(AgentRun.queued_at)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return list(session.scalars(query))


def child_of_call(session: Session, call_id: UUID) -> AgentRun | None:
    """Return the run that a call of ``invoke_agent`` started."""
    return session.scalar(select(AgentRun).where(AgentRun.parent_call_id == call_id))


def beat(session: Session, owners: Collection[str]) -> None:
    """Show that the holders of runs are alive."""
    session.execute(
        update(AgentRun)
        .where(AgentRun.owner.in_(owners), AgentRun.state.in_(("running", "waiting_approval")))
        .values(heartbeat_at=func.now())
    )


def cancelled_among(session: Session, run_ids: Collection[UUID]) -> set[UUID]:
    """Return those runs that are to be cancelled, are gone or have ended without their worker."""
    going = select(AgentRun.id).where(
        AgentRun.id.in_(run_ids), ~AgentRun.cancel_requested, AgentRun.state.in_(ACTIVE)
    )
    return set(run_ids) - set(session.scalars(going))


def ended_among(session: Session, run_ids: Collection[UUID]) -> set[UUID]:
    """Return those runs that have ended or are gone."""
    going = select(AgentRun.id).where(AgentRun.id.in_(run_ids), AgentRun.state.in_(ACTIVE))
    return set(run_ids) - set(session.scalars(going))


def last_event(session: Session, run_id: UUID) -> int:
    """Return the number of the newest stored event, 0 without one."""
    query = select(func.coalesce(func.max(AgentEvent.seq), 0)).where(AgentEvent.run_id == run_id)
    return session.execute(query).scalar_one()


def events_after(session: Session, run_id: UUID, seq: int) -> list[AgentEvent]:
    """Return the stored events with a higher number."""
    query = (
        select(AgentEvent)
        .where(AgentEvent.run_id == run_id, AgentEvent.seq > seq)
        .order_by(AgentEvent.seq)
    )
    return list(session.scalars(query))


# --- tool calls ------------------------------------------------------------------------------


def calls(session: Session, call_ids: Sequence[UUID]) -> dict[UUID, AgentToolCall]:
    """Return calls by their id."""
    query = select(AgentToolCall).where(AgentToolCall.id.in_(call_ids))
    return {call.id: call for call in session.scalars(query)}


def call(session: Session, call_id: UUID) -> AgentToolCall:
    """Return one call."""
    query = (
        select(AgentToolCall)
        .where(AgentToolCall.id == call_id)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).one()


def running_calls(session: Session, run_ids: Collection[UUID]) -> list[AgentToolCall]:
    """Return the calls in flight of some runs."""
    query = select(AgentToolCall).where(
        AgentToolCall.run_id.in_(run_ids), AgentToolCall.status == "running"
    )
    return list(session.scalars(query))


def end_open_calls(session: Session, run_id: UUID, error: str) -> None:
    """Fail the calls of a run that will not end by themselves any more."""
    session.execute(
        update(AgentToolCall)
        .where(AgentToolCall.run_id == run_id, AgentToolCall.status.in_(("pending", "running")))
        .values(status="failed", error=error, duration_ms=0)
    )


def link_calls(session: Session, run_id: UUID, message_id: UUID) -> None:
    """Show the calls of a run with its assistant message."""
    session.execute(
        update(AgentToolCall)
        .where(AgentToolCall.run_id == run_id, AgentToolCall.message_id.is_(None))
        .values(message_id=message_id)
    )


def lock_rates(session: Session, app_id: str) -> None:
    """Let one call of an agent at a time look at its rate limits, until the transaction ends."""
    session.execute(
        select(Agent.app_id).where(Agent.app_id == app_id).with_for_update(key_share=True)
    )


def counted_calls(
    session: Session, app_id: str, *, window_s: int, action: str | None, entity: str | None
) -> tuple[int, float]:
    """Count an agent's calls in a window that passed; None for action or entity = any.

    Returns:
        Their number, and the seconds until the oldest leaves the window.
    """
    query = select(
        func.count(),
        func.coalesce(
            func.extract(
                "epoch",
                func.min(AgentToolCall.created_at)
                + text(f"interval '{int(window_s)} seconds'")
                - func.clock_timestamp(),
            ),
            0,
        ),
    ).where(
        AgentToolCall.app_id == app_id,
        AgentToolCall.counted,
        AgentToolCall.created_at
        > func.clock_timestamp() - text(f"interval '{int(window_s)} seconds'"),
    )
    if action is not None:
        query = query.where(AgentToolCall.action == action)
    if entity is not None:
        query = query.where(AgentToolCall.entity == entity)
    count, seconds = session.execute(query).one()
    return int(count), float(seconds)


# --- approvals -------------------------------------------------------------------------------


def approval(session: Session, approval_id: UUID, *, lock: bool = False) -> AgentApproval | None:
    """Return an approval, locked for change if asked."""
    query = select(AgentApproval).where(AgentApproval.id == approval_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def approvals_of_calls(session: Session, call_ids: Sequence[UUID]) -> dict[UUID, AgentApproval]:
    """Return approvals by the call they are about."""
    query = (
        select(AgentApproval)
        .where(AgentApproval.call_id.in_(call_ids))
        .execution_options(populate_existing=True)
    )
    return {approval.call_id: approval for approval in session.scalars(query)}


def pending_approvals(
    session: Session, app_id: str, *, invoker_id: UUID | None = None
) -> list[AgentApproval]:
    """Return the open approvals shown under an app, of one invoker or of all, oldest first."""
    query = (
        select(AgentApproval)
        .where(
            AgentApproval.status == "pending",
            (AgentApproval.root_app_id == app_id) | (AgentApproval.app_id == app_id),
        )
        .order_by(AgentApproval.created_at, AgentApproval.id)
    )
    if invoker_id is not None:
        query = query.where(AgentApproval.invoker_id == invoker_id)
    return list(session.scalars(query))


def any_pending(session: Session, run_ids: Collection[UUID]) -> bool:
    """Tell whether some runs wait for a decision."""
    query = select(AgentApproval.id).where(
        AgentApproval.run_id.in_(run_ids), AgentApproval.status == "pending"
    )
    return session.scalar(query.limit(1)) is not None


def expired_approvals(session: Session) -> list[UUID]:
    """Return the open approvals whose time is over."""
    query = select(AgentApproval.id).where(
        AgentApproval.status == "pending", AgentApproval.expires_at <= func.now()
    )
    return list(session.scalars(query))


def cancel_approvals(session: Session, run_id: UUID) -> None:
    """Close the open approvals of a run."""
    session.execute(
        update(AgentApproval)
        .where(AgentApproval.run_id == run_id, AgentApproval.status == "pending")
        .values(status="cancelled", decided_at=func.now())
    )


# --- sweeping --------------------------------------------------------------------------------


def lost_runs(session: Session, silent_s: float) -> list[UUID]:
    """Return root runs whose worker gave no sign of life."""
    query = select(AgentRun.id).where(
        AgentRun.parent_run_id.is_(None),
        AgentRun.owner.is_not(None),
        AgentRun.state.in_(("running", "waiting_approval")),
        AgentRun.heartbeat_at < func.now() - text(f"interval '{float(silent_s)} seconds'"),
    )
    return list(session.scalars(query))


def queued_runs(session: Session, older_than_s: float) -> list[tuple[UUID, bool]]:
    """Return root runs that wait for a worker: id, whether that is too long."""
    age = func.now() - AgentRun.queued_at
    query = select(AgentRun.id, age > text(f"interval '{float(older_than_s)} seconds'")).where(
        AgentRun.parent_run_id.is_(None), AgentRun.state == "queued"
    )
    return [(row[0], row[1]) for row in session.execute(query)]


def parked_without_questions(session: Session) -> list[UUID]:
    """Return parked root runs all of whose questions are answered."""
    tree = text(
        """
        SELECT r.id FROM trellis.agent_runs r
        WHERE r.state = 'waiting_approval' AND r.parent_run_id IS NULL AND r.owner IS NULL
          AND NOT EXISTS (
            SELECT 1 FROM trellis.agent_approvals a
            JOIN trellis.agent_runs m ON m.id = a.run_id
            WHERE a.status = 'pending' AND (m.id = r.id OR m.parent_run_id = r.id))
        """
    )
    return list(session.scalars(tree))


def runs_of_app(session: Session, app_id: str) -> list[UUID]:
    """Return the runs of an agent that have not ended."""
    query = select(AgentRun.id).where(AgentRun.app_id == app_id, AgentRun.state.in_(ACTIVE))
    return list(session.scalars(query))


def states(session: Session, run_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the states of runs by their id."""
    query = select(AgentRun.id, AgentRun.state).where(AgentRun.id.in_(run_ids))
    return {row[0]: row[1] for row in session.execute(query)}


def set_session_status(session: Session, session_id: UUID, status: str) -> None:
    """Show in a session what its run does."""
    session.execute(
        update(AgentSession)
        .where(AgentSession.id == session_id)
        .values(status=status, updated_at=func.now())
    )


def add_message(session: Session, **values: Any) -> AgentMessage:  # Any: column values
    """Store a message and return it with its id."""
    message = AgentMessage(**values)
    session.add(message)
    # The id is needed to link the run's tool calls to it.
    session.flush()
    return message
