"""SQL of agents, sessions and messages."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.agents.models import (
    Agent,
    AgentApproval,
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
