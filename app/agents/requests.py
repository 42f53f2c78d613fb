"""Asking for a run: session, user message and run row in one transaction.

Source: REST contract part 40, sections 1.5 and 1.14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete

from app.agents import attachments, llm, repository, transcript
from app.agents import run_repository as run_rows
from app.agents.messages import RunAgent
from app.agents.models import Agent, AgentMessage, AgentRun, AgentSession
from app.core.actor import Actor
from app.core.errors import Conflict, Forbidden, Invalid, NotFound, NotReady
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.workers import service as workers_service

JSONObject = dict[str, Any]  # Any: JSON values

MANAGE = "admin:agents.manage"
MAX_MESSAGE = 200_000
MAX_TITLE = 80
NO_MODEL = "no language model is configured"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that waits for its worker."""

    run_id: UUID
    session_id: UUID
    new_session: bool


def invoke(
    platform: Platform,
    actor: Actor,
    *,
    app_id: str,
    message: str,
    session_id: UUID | None = None,
    file_ids: Sequence[UUID] = (),
) -> Opened:
    """Start a run for a caller whose invoke permission was checked, and send it to a worker.

    Raises:
        Invalid: the message is empty or too long, or the files are too large.
        NotFound: no agent, session or file.
        Forbidden: the session is somebody else's.
        Conflict: the session has an active run.
        NotReady: no model, or the broker is away; nothing is kept then.
    """
    check_message(message, has_files=bool(file_ids))
    with platform.uow() as uow:
        agent = repository.agent(uow.session, app_id)
        if agent is None:
            raise NotFound(f"app '{app_id}' has no agent")
        wanted = session_id or uuid4()
        _check_session(uow, actor, app_id, wanted)
        files = attachments.check(uow.session, app_id, file_ids)
        opened = open_run(
            uow,
            agent,
            invoker_id=actor.user_id,
            message=message,
            source="api",
            session_id=wanted,
            files=files,
        )
    wait_s = platform.settings.agents.queue_wait.total_seconds()
    try:
        platform.publisher.deliver(RunAgent(str(opened.run_id)), expires_s=wait_s)
    except NotReady as exc:
        _take_back(platform, opened)
        raise NotReady("agent queue is unavailable") from exc
    return opened


def check_message(message: str, *, has_files: bool) -> None:
    """Refuse a message no agent gets.

    Raises:
        Invalid: blank without files, or too long.
    """
    if not message.strip() and not has_files:
        raise Invalid("message must not be empty")
    if len(message) > MAX_MESSAGE:
        raise Invalid(f"message is longer than {MAX_MESSAGE} characters")


def _check_session(uow: UnitOfWork, actor: Actor, app_id: str, session_id: UUID) -> None:
    found = repository.agent_session(uow.session, session_id)
    if found is None:
        return
    if found.app_id != app_id:
        raise NotFound("session not found")
    if found.user_id != actor.user_id and not actor.can(MANAGE):
        raise Forbidden("session belongs to another user")


def open_run(
    uow: UnitOfWork,
    agent: Agent,
    *,
    invoker_id: UUID | None,
    message: str,
    source: str,
    session_id: UUID | None = None,
    files: Sequence[JSONObject] = (),
    job: JSONObject | None = None,
) -> Opened:
    """Write session, message and run; the caller has checked who may do this.

    Locks: the session.

    Raises:
        Conflict: the session has an active run.
        NotReady: no model is registered and the app has no code that could be its own handler.
    """
    session_id = session_id or uuid4()
    new = repository.agent_session(uow.session, session_id) is None
    repository.add_session(uow.session, session_id, app_id=agent.app_id, user_id=invoker_id)
    _occupy(uow, session_id, message)
    row = new_run(
        uow,
        agent,
        session_id=session_id,
        invoker_id=invoker_id,
        message=message,
        source=source,
        files=files,
    )
    row.job = job
    return Opened(row.id, session_id, new)


def _occupy(uow: UnitOfWork, session_id: UUID, message: str) -> None:
    found = repository.agent_session(uow.session, session_id, lock=True)
    if found is None:
        raise NotFound("session not found")
    if run_rows.active_run_of_session(uow.session, session_id) is not None:
        raise Conflict("session has an active run")
    found.title = found.title or message.strip()[:MAX_TITLE] or None
    found.status = "running"


def new_run(
    uow: UnitOfWork,
    agent: Agent,
    *,
    session_id: UUID,
    invoker_id: UUID | None,
    message: str,
    source: str,
    files: Sequence[JSONObject] = (),
    parent: AgentRun | None = None,
    parent_call_id: UUID | None = None,
) -> AgentRun:
    """Write a run and its user message.

    Raises:
        NotReady: there is no model for it.
    """
    model = llm.choose(uow.session, agent.config.get("model"))
    has_code = workers_service.wanted(uow.session, agent.app_id).has_code
    if model is None and not has_code:
        raise NotReady(NO_MODEL)
    config = {
        **agent.config,
        "name": agent.name,
        "prompt": agent.prompt,
        "model": model,
        "message": message,
        "autonomous": source in {"cron", "hook", "webhook"}
        or bool(parent is not None and parent.config.get("autonomous")),
    }
    row = AgentRun(
        id=uuid4(),
        session_id=session_id,
        app_id=agent.app_id,
        root_app_id=agent.app_id if parent is None else parent.root_app_id,
        parent_run_id=None if parent is None else parent.id,
        parent_call_id=parent_call_id,
        invoker_id=invoker_id,
        source=source,
        config=config,
        transcript=[transcript.user(*_question(message, files))],
    )
    uow.session.add(row)
    uow.session.add(
        AgentMessage(session_id=session_id, run_id=row.id, role="user", content=message)
    )
    # A second run of the session must show as such here, not at commit.
    uow.session.flush()
    return row


def child_session(uow: UnitOfWork, agent: Agent, parent: AgentRun, message: str) -> UUID:
    """Open the session of a sub-agent; it belongs to the parent's invoker."""
    session_id = uuid4()
    repository.add_session(
        uow.session,
        session_id,
        app_id=agent.app_id,
        user_id=parent.invoker_id,
        parent_run_id=parent.id,
    )
    _occupy(uow, session_id, message)
    return session_id


def _question(message: str, files: Sequence[JSONObject]) -> list[JSONObject]:
    return [*files, *([transcript.text(message)] if message.strip() else [])]


def _take_back(platform: Platform, opened: Opened) -> None:
    with platform.uow() as uow:
        session = uow.session
        session.execute(delete(AgentRun).where(AgentRun.id == opened.run_id))
        session.execute(delete(AgentMessage).where(AgentMessage.run_id == opened.run_id))
        if opened.new_session:
            session.execute(delete(AgentSession).where(AgentSession.id == opened.session_id))
        else:
            run_rows.set_session_status(session, opened.session_id, "active")
