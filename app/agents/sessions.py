"""Reading and managing agents and their sessions.

Source: REST contract part 40, sections 1.4 and 1.10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.agents import definition as definitions
from app.agents import repository, service
from app.agents.authority import agent_user_id
from app.agents.models import Agent, AgentMessage, AgentSession, AgentToolCall
from app.core.actor import Actor
from app.core.clock import rfc3339
from app.core.errors import Invalid, NotFound
from app.core.platform import Platform
from app.core.uow import UnitOfWork

JSONObject = dict[str, Any]  # Any: JSON values

MANAGE = "admin:agents.manage"
SHOWN = ("systemPrompt", "memory", "limits", "supervision")


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent as the API shows it."""

    app_id: str
    name: str
    description: str | None
    config: JSONObject
    user_id: UUID


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session with its messages."""

    session: AgentSession
    messages: list[JSONObject]


def list_agents(session: Session) -> list[AgentView]:
    """Return every agent by name, then app."""
    return [_shown(agent) for agent in repository.agents(session)]


def find_agent(session: Session, app_id: str) -> AgentView:
    """Return an app's agent.

    Raises:
        NotFound: it has none.
    """
    agent = repository.agent(session, app_id)
    if agent is None:
        raise NotFound(f"app '{app_id}' has no agent")
    return _shown(agent)


def update_agent(uow: UnitOfWork, *, app_id: str, changes: Mapping[str, Any]) -> None:
    """Rename or describe an agent. Idempotent.

    Args:
        uow: the unit of work.
        app_id: whose agent.
        changes: ``name`` and ``description``, if they are to change.

    Raises:
        NotFound: there is no such agent.
        Invalid: the name is empty or too long.
    """
    name, description = changes.get("name"), changes.get("description")
    if name is not None and not 1 <= len(name.strip()) <= len(name) <= definitions.MAX_NAME:
        raise Invalid(f"name must be 1 to {definitions.MAX_NAME} characters")
    if description is not None and len(description) > definitions.MAX_DESCRIPTION:
        raise Invalid(f"description must be at most {definitions.MAX_DESCRIPTION} characters")
    agent = _require(uow.session, app_id)
    if name is not None:
        agent.name = name
    if "description" in changes:
        agent.description = description or None
    agent.updated_at = func.now()


def delete_agent(platform: Platform, uow: UnitOfWork, *, app_id: str) -> None:
    """Remove an agent with its sessions, runs and delegations.

    Raises:
        NotFound: there is no such agent.
    """
    _require(uow.session, app_id)
    service.remove(platform, uow, app_id)


def _require(session: Session, app_id: str) -> Agent:
    agent = repository.agent(session, app_id, lock=True)
    if agent is None:
        raise NotFound(f"agent '{app_id}' not found")
    return agent


def _shown(agent: Agent) -> AgentView:
    return AgentView(
        app_id=agent.app_id,
        name=agent.name,
        description=agent.description,
        config={key: agent.config[key] for key in SHOWN},
        user_id=agent_user_id(agent.app_id),
    )


# --- sessions --------------------------------------------------------------------------------


def list_sessions(
    session: Session, actor: Actor, *, app_id: str, limit: int, offset: int
) -> list[AgentSession]:
    """Return a page of sessions: the actor's own, or everybody's for managers of agents."""
    user_id = None if actor.can(MANAGE) else actor.user_id
    return repository.sessions(session, app_id, user_id=user_id, limit=limit, offset=offset)


def read_session(session: Session, actor: Actor, *, app_id: str, session_id: UUID) -> SessionView:
    """Return a session with its messages and their tool calls.

    Raises:
        NotFound: no such session of this agent, or somebody else's.
    """
    found = _visible(session, actor, app_id, session_id)
    calls: dict[UUID | None, list[JSONObject]] = defaultdict(list)
    for call in repository.calls_of_session(session, session_id):
        calls[call.message_id].append(_call(call))
    messages = []
    for message in repository.messages(session, session_id):
        shown = _message(message)
        if message.id in calls:
            shown["toolCalls"] = calls[message.id]
        messages.append(shown)
    return SessionView(found, messages)


def timeline(session: Session, actor: Actor, *, app_id: str, session_id: UUID) -> list[JSONObject]:
    """Return everything that happened in a session, oldest first.

    Raises:
        NotFound: no such session of this agent, or somebody else's.
    """
    _visible(session, actor, app_id, session_id)
    entries: list[tuple[datetime, JSONObject]] = []
    for message in repository.messages(session, session_id):
        shown = _message(message)
        del shown["createdAt"]
        entries.append((message.created_at, {"type": "message", **shown}))
    entries.extend(
        (call.created_at, _timeline_call(call))
        for call in repository.calls_of_session(session, session_id)
    )
    for approval in repository.approvals_of_session(session, session_id):
        entry = {
            "type": "approval",
            "id": str(approval.id),
            "callId": str(approval.call_id),
            "toolName": approval.tool_name,
            "status": approval.status,
            "reason": approval.reason,
            "decidedBy": None if approval.decided_by is None else str(approval.decided_by),
            "decisionReason": approval.decision_reason,
        }
        entries.append((approval.created_at, entry))
    for run in repository.failed_runs_of_session(session, session_id):
        if run.finished_at is not None:
            error = {"type": "error", "runId": str(run.id), "error": run.error}
            entries.append((run.finished_at, error))
    entries.sort(key=lambda pair: pair[0])
    return [{**entry, "at": rfc3339(at)} for at, entry in entries]


def _visible(session: Session, actor: Actor, app_id: str, session_id: UUID) -> AgentSession:
    found = repository.agent_session(session, session_id)
    if found is None or found.app_id != app_id:
        raise NotFound("session not found")
    if found.user_id != actor.user_id and not actor.can(MANAGE):
        raise NotFound("session not found")
    return found


def _message(message: AgentMessage) -> JSONObject:
    return {
        "id": str(message.id),
        "role": message.role,
        "content": message.content,
        "tokenCount": message.token_count,
        "isSummary": message.is_summary,
        "createdAt": rfc3339(message.created_at),
    }


def _call(call: AgentToolCall) -> JSONObject:
    return {
        "id": str(call.id),
        "tool_name": call.tool_name,
        "input": call.input,
        "output": call.output,
        "error": call.error,
        "status": call.status,
        "duration_ms": call.duration_ms,
        "created_at": rfc3339(call.created_at),
    }


def _timeline_call(call: AgentToolCall) -> JSONObject:
    return {
        "type": "tool_call",
        "id": str(call.id),
        "toolName": call.tool_name,
        "input": call.input,
        "output": call.output,
        "error": call.error,
        "status": call.status,
        "durationMs": call.duration_ms,
    }
