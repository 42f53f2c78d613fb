"""Agents, their runs, sessions and approvals.

Source: REST contract part 40, sections 1.4 to 1.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, request

from app.agents import approvals, feeds, requests, run_control, sessions
from app.agents.models import AgentApproval, AgentSession
from app.agents.schemas import (
    AgentInvoke,
    AgentOut,
    AgentPatch,
    AgentSessionOut,
    AgentSessionRow,
    AgentStatusOut,
    ApprovalDecision,
    ApprovalOut,
)
from app.agents.sessions import AgentView, SessionView
from app.core.actor import Actor
from app.core.errors import Invalid
from app.core.ids import parse_uuid
from app.core.paging import clamp, whole_number
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.sse import event_stream
from app.http.views import View

blp = Blueprint("agents", __name__, description="Agents: definitions, runs, sessions, approvals")

MANAGE = "admin:agents.manage"
OK = {"status": "ok"}


def _own_or_manager(actor: Actor, path: Mapping[str, Any]) -> None:  # Any: path converters
    if not actor.can(MANAGE):
        actor.require(f"app:{path['app_id']}:invoke")


own_or_manager = gates.Gate(
    "app:{app_id}:invoke (own) | admin:agents.manage", check=_own_or_manager
)


@blp.route(f"{PREFIX}/agents")
class Agents(View):
    """All agents."""

    @gates.signed_in
    @blp.response(200, AgentOut(many=True))
    @blp.doc(summary="List all agents")
    def get(self) -> list[AgentView]:
        """Return the agents by name."""
        return sessions.list_agents(self.uow.session)


@blp.route(f"{PREFIX}/agents/stream")
class Fleet(View):
    """What all agents do, live."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.doc(
        summary="Stream the events of all agents",
        parameters=[{"in": "query", "name": "app_id", "schema": {"type": "string"}}],
    )
    def get(self) -> Response:
        """Stream unnamed events for ever."""
        return event_stream(feeds.fleet(self.platform, request.args.get("app_id")))


@blp.route(f"{PREFIX}/agents/<app_id>")
class AgentAdmin(View):
    """One agent, for its managers."""

    @gates.permission(MANAGE)
    @blp.arguments(AgentPatch)
    @blp.response(200, AgentStatusOut)
    @blp.doc(summary="Update an agent's name and description")
    def patch(self, body: dict[str, Any], app_id: str) -> dict[str, str]:  # Any: JSON values
        """Change what was sent."""
        sessions.update_agent(self.uow, app_id=app_id, changes=body)
        return OK

    @gates.permission(MANAGE)
    @blp.response(200, AgentStatusOut)
    @blp.doc(summary="Delete an agent with its sessions")
    def delete(self, app_id: str) -> dict[str, str]:
        """Delete it."""
        sessions.delete_agent(self.platform, self.uow, app_id=app_id)
        return OK


@blp.route(f"{PREFIX}/apps/<app_id>/agent")
class AgentOfApp(View):
    """The agent of an app."""

    @gates.signed_in
    @blp.response(200, AgentOut)
    @blp.doc(summary="Get an app's agent")
    def get(self, app_id: str) -> AgentView:
        """Return the agent."""
        return sessions.find_agent(self.uow.session, app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/agent/invoke")
class InvokeView(View):
    """Talking to an agent."""

    transactional = False

    @gates.permission("app:{app_id}:invoke")
    @blp.arguments(AgentInvoke)
    @blp.doc(summary="AgentInvoke an agent; answers an event stream")
    def post(self, body: dict[str, Any], app_id: str) -> Response:  # Any: JSON values
        """Start a run and stream its events."""
        opened = requests.invoke(self.platform, self.actor, app_id=app_id, **body)
        response = event_stream(feeds.follow(self.platform, opened.run_id))
        response.headers["X-Session-Id"] = str(opened.session_id)
        response.headers["X-Run-Id"] = str(opened.run_id)
        return response


@blp.route(f"{PREFIX}/apps/<app_id>/agent/runs/<run_id>/stream")
class RunStreamView(View):
    """A run's events, again."""

    transactional = False

    @gates.in_service("run's invoker | admin:agents.manage")
    @blp.doc(
        summary="Follow a run from where a client left off",
        parameters=[{"in": "header", "name": "Last-Event-ID", "schema": {"type": "integer"}}],
    )
    def get(self, app_id: str, run_id: str) -> Response:
        """Stream the events after ``Last-Event-ID``."""
        with self.platform.uow() as uow:
            run = run_control.visible(uow.session, self.actor, app_id=app_id, run_id=run_id)
            found, session_id = run.id, run.session_id
        after = whole_number(request.headers.get("Last-Event-ID")) or 0
        response = event_stream(feeds.follow(self.platform, found, max(0, after)))
        response.headers["X-Session-Id"] = str(session_id)
        response.headers["X-Run-Id"] = str(found)
        return response


@blp.route(f"{PREFIX}/apps/<app_id>/agent/runs/<run_id>/cancel")
class Cancel(View):
    """Cancelling a run."""

    @gates.in_service("run's invoker | admin:agents.manage")
    @blp.response(200, AgentStatusOut)
    @blp.doc(summary="Cancel a run")
    def post(self, app_id: str, run_id: str) -> dict[str, str]:
        """Ask the run to end at its next step."""
        run_control.cancel(self.platform, self.uow, self.actor, app_id=app_id, run_id=run_id)
        return {"status": "cancelling"}


@blp.route(f"{PREFIX}/apps/<app_id>/agent/sessions")
class Sessions(View):
    """Sessions of an agent."""

    @own_or_manager
    @blp.response(200, AgentSessionRow(many=True))
    @blp.doc(
        summary="List sessions",
        parameters=[
            {"in": "query", "name": "limit", "schema": {"type": "integer", "default": 100}},
            {"in": "query", "name": "offset", "schema": {"type": "integer", "default": 0}},
        ],
    )
    def get(self, app_id: str) -> list[AgentSession]:
        """Return a page, latest change first."""
        limit = whole_number(request.args.get("limit", "100"))
        offset = whole_number(request.args.get("offset", "0"))
        if limit is None or offset is None:
            raise Invalid("limit and offset must be integers")
        return sessions.list_sessions(
            self.uow.session,
            self.actor,
            app_id=app_id,
            limit=clamp(limit, 1, 1000),
            offset=clamp(offset, 0, 2**62),
        )


@blp.route(f"{PREFIX}/apps/<app_id>/agent/sessions/<session_id>")
class SessionDetail(View):
    """One session."""

    @own_or_manager
    @blp.response(200, AgentSessionOut)
    @blp.doc(summary="Get a session with its messages")
    def get(self, app_id: str, session_id: str) -> SessionView:
        """Return the session."""
        wanted = parse_uuid(session_id)
        return sessions.read_session(self.uow.session, self.actor, app_id=app_id, session_id=wanted)


@blp.route(f"{PREFIX}/apps/<app_id>/agent/sessions/<session_id>/events")
class Timeline(View):
    """Everything that happened in a session."""

    @own_or_manager
    @blp.response(200)
    @blp.doc(summary="Get a session's timeline")
    def get(self, app_id: str, session_id: str) -> list[dict[str, Any]]:  # Any: JSON values
        """Return the timeline, oldest first."""
        wanted = parse_uuid(session_id)
        return sessions.timeline(self.uow.session, self.actor, app_id=app_id, session_id=wanted)


@blp.route(f"{PREFIX}/apps/<app_id>/agent/approvals")
class Approvals(View):
    """Open questions of an agent."""

    @own_or_manager
    @blp.response(200, ApprovalOut(many=True))
    @blp.doc(summary="List pending approvals")
    def get(self, app_id: str) -> list[AgentApproval]:
        """Return what the caller may decide, oldest first."""
        return approvals.list_pending(self.uow.session, self.actor, app_id=app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/agent/approvals/<approval_id>")
class ApprovalView(View):
    """One open question."""

    @own_or_manager
    @blp.arguments(ApprovalDecision)
    @blp.response(200, AgentStatusOut)
    @blp.doc(summary="Approve or reject a tool call")
    def post(
        self, body: dict[str, Any], app_id: str, approval_id: str
    ) -> dict[str, str]:  # Any: JSON values
        """Decide; the first answer wins."""
        approvals.decide(
            self.uow,
            self.actor,
            app_id=app_id,
            approval_id=parse_uuid(approval_id),
            action=approvals.checked_action(body["action"], body["reason"]),
            reason=body["reason"],
        )
        return OK
