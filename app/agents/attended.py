"""Runs that people ask for in a chat, and what they may choose and decide there.

Source: REST contract part 40, sections 1.12, 1.14 and 7.5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.agents import approvals, attachments, repository, requests, service
from app.agents import run_repository as run_rows
from app.agents.messages import RunAgent
from app.core.actor import Actor
from app.core.errors import Forbidden, NotFound
from app.core.uow import UnitOfWork


@dataclass(frozen=True, slots=True)
class AgentRef:
    """An agent somebody may talk to."""

    app_id: str
    name: str


def start(
    uow: UnitOfWork,
    *,
    invoker_id: UUID,
    app_id: str,
    session_id: UUID,
    message: str,
    file_ids: Sequence[UUID] = (),
    trigger_id: str,
) -> UUID:
    """Start a run for somebody who writes in a chat; return its id.

    Args:
        uow: the unit of work; the run is sent to a worker after its commit.
        invoker_id: who writes.
        app_id: whose agent.
        session_id: made at its first message.
        message: what the agent is told.
        file_ids: files of the app's storage.
        trigger_id: what the channel's delegation is kept under.

    Raises:
        NotFound: the app has no agent.
        Forbidden: the writer is disabled, revoked the delegation or lacks the permission.
        Conflict: the session has an active run.
        Invalid: the message is too long, or the files are too large.
        NotReady: no model is registered.
    """
    agent = repository.agent(uow.session, app_id)
    if agent is None:
        raise NotFound(f"app '{app_id}' has no agent")
    service.may_run(
        uow, owner_id=invoker_id, app_id=app_id, trigger_type="channel", trigger_id=trigger_id
    )
    found = repository.agent_session(uow.session, session_id)
    if found is not None and (found.app_id, found.user_id) != (app_id, invoker_id):
        raise Forbidden("session belongs to another user")
    requests.check_message(message, has_files=bool(file_ids))
    opened = requests.open_run(
        uow,
        agent,
        invoker_id=invoker_id,
        message=message,
        source="channel",
        session_id=session_id,
        files=attachments.check(uow.session, app_id, file_ids),
    )
    uow.send_after_commit(RunAgent(str(opened.run_id)))
    return opened.run_id


def choices(session: Session, actor: Actor) -> list[AgentRef]:
    """Return the agents an actor may invoke, by name."""
    return [
        AgentRef(agent.app_id, agent.name)
        for agent in repository.agents(session)
        if actor.can(f"app:{agent.app_id}:invoke")
    ]


def decide(uow: UnitOfWork, actor: Actor, *, approval_id: UUID, approve: bool, reason: str) -> None:
    """Answer an approval as its endpoint does; ``reason`` goes with a rejection.

    Raises:
        NotFound: no such approval.
        Forbidden: the actor may neither invoke the agent nor manage agents, or did not ask.
        Conflict: it is decided already.
    """
    found = run_rows.approval(uow.session, approval_id)
    if found is None:
        raise NotFound("approval not found")
    keys = (approvals.MANAGE, *(f"app:{app}:invoke" for app in (found.app_id, found.root_app_id)))
    if not any(map(actor.can, keys)):
        raise Forbidden("you may not decide this approval")
    action = "approve" if approve else "reject"
    approvals.decide(uow, actor, app_id=None, approval_id=approval_id, action=action, reason=reason)


def states(session: Session, run_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the states of runs; those that are gone are missing."""
    return run_rows.states(session, run_ids)
