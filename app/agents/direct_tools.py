"""Tools outside agent runs: the caller's own permissions, no supervision, no session.

Source: REST contract part 40, section 3.1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from app.agents.mcp import servers
from app.agents.mcp import tools as mcp_tools
from app.agents.tools import registry
from app.agents.tools.base import Tool, ToolContext
from app.apps import service as apps_service
from app.core.actor import Actor, Source
from app.core.errors import NotFound
from app.core.platform import Platform


def list_tools(platform: Platform, session: Session) -> list[Tool]:
    """Return the tools by name."""
    tools = _tools(platform, session)
    return [tools[name] for name in sorted(tools)]


def _tools(platform: Platform, session: Session) -> dict[str, Tool]:
    """Return every tool; those of MCP servers are called on a node."""
    call = partial(servers.call_on_a_node, platform)
    return {**registry.BUILT_IN, **mcp_tools.load(session, call)}


def execute(
    platform: Platform,
    actor: Actor,
    *,
    name: str,
    app_id: str,
    args: dict[str, Any],  # Any: JSON values
) -> Any:  # Any: a JSON value
    """Run a tool for a caller whose ``tool:`` key was checked.

    Raises:
        NotFound: no such tool or app.
        AppError: as the tool.
    """
    with platform.uow() as uow:
        tool = _tools(platform, uow.session).get(name)
        if tool is None:
            raise NotFound(f"unknown tool: '{name}'")
        apps_service.require(uow.session, app_id)
    acting = actor.via(Source.AGENT_TOOL)
    context = ToolContext(platform, app_id, actor=acting, caller=actor)
    arguments = tool.validate(args)
    tool.check(context, arguments)
    return tool.run(context, arguments)
