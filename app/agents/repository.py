"""SQL of agents, sessions, messages and delegations."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.agents.models import (
    Agent,
    AgentApproval,
    AgentDelegation,
    AgentMessage,
    AgentRun,
    AgentSession,
    AgentToolCall,
)

JSONObject = dict[str, Any]  # Any: JSON values


def agent(session: Session, app_id: str, *, lock: bool = False) -> Agent | None:
    """Return an app's agent."""
    query = select(Agent).where(Agent.app_id == app_id)
    return session.scalar(query.with_for_update() if lock else query)


def agents(session: Session) -> list[Agent]:
    """Return every agent by name, then app."""
    return list(session.scalars(select(Agent).order_by(Agent.name, Agent.app_id)))


def put_agent(session: Session, app_id: str, owner_id: UUID | None, **values: Any) -> None:
    """Insert or overwrite an agent; its owner of record stays the first one."""
    row = insert(Agent).values(app_id=app_id, owner_id=owner_id, **values)
    session.execute(
        row.on_conflict_do_update(
            index_elements=[Agent.app_id], set_={**values, "updated_at": func.now()}
        )
    )


def delete_agent(session: Session, app_id: str) -> None:
    """Delete an agent with its sessions and everything in them."""
    session.execute(delete(Agent).where(Agent.app_id == app_id))


# --- sessions --------------------------------------------------------------------------------


def agent_session(session: Session, session_id: UUID, *, lock: bool = False) -> AgentSession | None:
    """Return a session."""
    query = select(AgentSession).where(AgentSession.id == session_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def sessions(
    session: Session, app_id: str, *, user_id: UUID | None, limit: int, offset: int
) -> list[AgentSession]:
    """Return a page of an agent's sessions, of one user or (None) of all, latest change first."""
    query = select(AgentSession).where(AgentSession.app_id == app_id)
    if user_id is not None:
        query = query.where(AgentSession.user_id == user_id)
    ordered = query.order_by(AgentSession.updated_at.desc(), AgentSession.id)
    return list(session.scalars(ordered.limit(limit).offset(offset)))


def add_session(
    session: Session,
    session_id: UUID,
    *,
    app_id: str,
    user_id: UUID | None,
    parent_run_id: UUID | None = None,
) -> None:
    """Create a session unless it exists (two first messages at once make one session)."""
    session.execute(
        insert(AgentSession)
        .values(id=session_id, app_id=app_id, user_id=user_id, parent_run_id=parent_run_id)
        .on_conflict_do_nothing()
    )


def messages(session: Session, session_id: UUID) -> list[AgentMessage]:
    """Return a session's messages in order."""
    query = (
        select(AgentMessage).where(AgentMessage.session_id == session_id).order_by(AgentMessage.seq)
    )
    return list(session.scalars(query))


def calls_of_session(session: Session, session_id: UUID) -> list[AgentToolCall]:
    """Return a session's tool calls in order."""
    query = (
        select(AgentToolCall)
        .where(AgentToolCall.session_id == session_id)
        .order_by(AgentToolCall.seq)
    )
    return list(session.scalars(query))


def approvals_of_session(session: Session, session_id: UUID) -> list[AgentApproval]:
    """Return a session's approvals in order."""
    query = (
        select(AgentApproval)
        .where(AgentApproval.session_id == session_id)
        .order_by(AgentApproval.created_at, AgentApproval.id)
    )
    return list(session.scalars(query))


def failed_runs_of_session(session: Session, session_id: UUID) -> list[AgentRun]:
    """Return a session's runs that ended with an error."""
    query = (
        select(AgentRun)
        .where(AgentRun.session_id == session_id, AgentRun.error.is_not(None))
        .order_by(AgentRun.finished_at)
    )
    return list(session.scalars(query))


# --- delegations -----------------------------------------------------------------------------


def delegate(
    session: Session,
    *,
    delegator_id: UUID,
    agent_user_id: UUID,
    trigger_type: str,
    trigger_id: str,
) -> None:
    """Note that a trigger may run an agent in a user's name, instead of anybody before."""
    revoke(session, agent_user_id=agent_user_id, trigger_type=trigger_type, trigger_id=trigger_id)
    session.add(
        AgentDelegation(
            delegator_id=delegator_id,
            agent_user_id=agent_user_id,
            trigger_type=trigger_type,
            trigger_id=trigger_id,
        )
    )
    # Later statements of the same transaction look for it.
    session.flush()


def revoke(
    session: Session,
    *,
    agent_user_id: UUID | None = None,
    delegator_id: UUID | None = None,
    trigger_type: str | None = None,
    trigger_id: str | None = None,
) -> int:
    """Revoke the live delegations that match everything given; return how many."""
    query = update(AgentDelegation).where(AgentDelegation.revoked_at.is_(None))
    if agent_user_id is not None:
        query = query.where(AgentDelegation.agent_user_id == agent_user_id)
    if delegator_id is not None:
        query = query.where(AgentDelegation.delegator_id == delegator_id)
    if trigger_type is not None:
        query = query.where(AgentDelegation.trigger_type == trigger_type)
    if trigger_id is not None:
        query = query.where(AgentDelegation.trigger_id == trigger_id)
    gone = query.values(revoked_at=func.now()).returning(AgentDelegation.id)
    return len(session.execute(gone).all())


def delegated(
    session: Session,
    *,
    delegator_id: UUID,
    agent_user_id: UUID,
    trigger_type: str,
    trigger_id: str,
) -> bool:
    """Tell whether a live delegation for a trigger exists."""
    query = select(AgentDelegation.id).where(
        AgentDelegation.delegator_id == delegator_id,
        AgentDelegation.agent_user_id == agent_user_id,
        AgentDelegation.trigger_type == trigger_type,
        AgentDelegation.trigger_id == trigger_id,
        AgentDelegation.revoked_at.is_(None),
        AgentDelegation.expires_at.is_(None) | (AgentDelegation.expires_at > func.now()),
    )
    return session.scalar(query.limit(1)) is not None
