"""MCP servers: registered, started, stopped; on the API's side and on a node's.

The API asks a node to connect, because only nodes run foreign programs and event loops; the node
writes down what it found. Rows are the truth: every node connects by them.

Source: REST contract part 40, section 4; ADR 0016.
"""

from __future__ import annotations

import json
from typing import Any, Final

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.agents.mcp import config as configs
from app.agents.mcp import tools as mcp_tools
from app.agents.mcp.config import Server
from app.agents.mcp.pool import CALL_S, START_S, Pool, RemoteTool
from app.agents.messages import CallMCPTool, StartMCPServer
from app.agents.models import MCPServer, MCPTool
from app.agents.tools import registry
from app.agents.tools.base import tool_key
from app.agents.transcript import clean
from app.core.crypto import VaultError
from app.core.errors import Failed, NotFound
from app.core.messaging import Queue
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.rbac import service as rbac_service
from app.secrets import service as secrets_service
from app.workers import service as workers_service

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values
MAX_DESCRIPTION: Final = 4000
SLACK_S: Final = 40.0
"""Seconds above the limits of a node's work: its queue, and the first load of the library."""


# --- the API's side --------------------------------------------------------------------------


def shown(row: MCPServer) -> JSONObject:
    """Return a server as the API shows it."""
    found = {"name": row.name, "config": row.config, "status": row.status}
    return found if row.error is None else {**found, "error": row.error}


def list_servers(session: Session) -> list[JSONObject]:
    """Return all servers by name."""
    return [shown(row) for row in session.scalars(select(MCPServer).order_by(MCPServer.name))]


def find(session: Session, name: str, *, lock: bool = False) -> MCPServer:
    """Return a server's row.

    Raises:
        NotFound: there is none of that name.
    """
    row = session.get(MCPServer, name, with_for_update=lock or None)
    if row is None:
        raise NotFound(f"MCP server '{name}' not found")
    return row


def put(
    platform: Platform,
    *,
    name: str,
    transport: JSONObject,
    env: JSONObject | None,
    auto_start: bool,
) -> JSONObject:
    """Register a server or replace the one of that name, and start it if asked.

    Raises:
        Invalid: a part of it breaks a rule.
        Failed: it does not start; the row is kept and says why.
        NotReady: no node is there to start it.
    """
    configs.check_name(name)
    allowed = platform.settings.agents.mcp_stdio
    config = configs.checked(name, transport, env, stdio_allowed=allowed)
    with platform.uow() as uow:
        row = uow.session.get(MCPServer, name, with_for_update=True)
        if row is None:
            uow.session.add(MCPServer(name=name, config=config))
        else:
            _halt(uow, row)
            row.config = config
    log.info("mcp_server_registered", server=name)
    if auto_start:
        return start(platform, name)
    return {"name": name, "status": "stopped"}


def start(platform: Platform, name: str) -> JSONObject:
    """Have a node start a server. Idempotent.

    Raises:
        NotFound: there is none of that name.
        Failed: it does not start; the row says why.
        NotReady: no node is there.
    """
    with platform.uow() as uow:
        if find(uow.session, name).status == "running":
            return _running(uow.session, name)
    limit_s = START_S + SLACK_S
    with platform.replies.ask(Queue.AGENTS) as question:
        message = StartMCPServer(name, question.id, question.reply_to)
        platform.publisher.deliver(message, expires_s=limit_s)
        workers_service.answer_of(question.wait, limit_s)
    with platform.uow() as uow:
        return _running(uow.session, name)


def stop(platform: Platform, name: str) -> JSONObject:
    """Stop a server: its tools are gone at once, clients of it within seconds. Idempotent.

    Raises:
        NotFound: there is none of that name.
    """
    with platform.uow() as uow:
        _halt(uow, find(uow.session, name, lock=True))
    return {"name": name, "status": "stopped"}


def remove(platform: Platform, name: str) -> JSONObject:
    """Forget a server.

    Raises:
        NotFound: there is none of that name.
    """
    with platform.uow() as uow:
        row = find(uow.session, name, lock=True)
        _halt(uow, row)
        uow.session.delete(row)
    return {"message": f"MCP server '{name}' removed"}


def call_on_a_node(platform: Platform, server: str, tool: str, arguments: JSONObject) -> str:
    """Call a tool from a process that has no clients of its own.

    Raises:
        Failed: the tool failed or took too long.
        NotReady: no node is there.
    """
    limit_s = CALL_S + SLACK_S
    with platform.replies.ask(Queue.AGENTS) as question:
        message = CallMCPTool(server, tool, arguments, question.id, question.reply_to)
        platform.publisher.deliver(message, expires_s=limit_s)
        reply = workers_service.answer_of(question.wait, limit_s)
    return str(json.loads(reply.body))


def _running(session: Session, name: str) -> JSONObject:
    query = select(MCPTool.name).where(MCPTool.server == name).order_by(MCPTool.name)
    return {"name": name, "status": "running", "tools": list(session.scalars(query))}


def _halt(uow: UnitOfWork, row: MCPServer) -> None:
    row.status = "stopped"
    row.error = None
    row.version += 1
    row.updated_at = func.now()
    _set_tools(uow, row.name, [])


def _set_tools(uow: UnitOfWork, server: str, tools: list[RemoteTool]) -> None:
    """Make these a server's tools, and their keys those that can be granted."""
    session = uow.session
    gone = delete(MCPTool).where(MCPTool.server == server).returning(MCPTool.name)
    rbac_service.unregister_exactly(uow, [tool_key(n) for n in session.scalars(gone)])
    known = (*registry.NAMES, *session.scalars(select(MCPTool.name)))
    taken = {tool_key(name) for name in known}
    described: dict[str, str] = {}
    for tool in tools:
        name = mcp_tools.registered_name(server, tool.name, taken)
        key = tool_key(name)
        if key in taken:
            continue
        taken.add(key)
        described[key] = f"use the tool {name} of MCP server {server}"
        session.add(
            MCPTool(
                name=name,
                server=server,
                remote_name=tool.name,
                description=str(clean(tool.description))[:MAX_DESCRIPTION],
                input_schema=mcp_tools.usable_schema(clean(tool.input_schema)),
            )
        )
    rbac_service.register_keys(uow, described)


# --- the node's side -------------------------------------------------------------------------


class Node:
    """Starts servers and calls their tools from one process.

    Args:
        platform: the process's platform.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._pool = Pool(platform.settings.http.outgoing_networks, self._versions)

    def start(self, name: str) -> None:
        """Connect to a server and write down its tools, or why it does not start.

        Raises:
            NotFound: it is gone.
            Failed: it does not start.
        """
        with self._platform.uow() as uow:
            version = find(uow.session, name).version
        try:
            tools = self._pool.tools(self._server(name))
        except Failed as exc:
            self._note(name, version, error=exc.message)
            raise Failed(f"start failed: {exc.message}") from exc
        if not self._note(name, version, tools=tools):
            raise Failed("start failed: the server was changed meanwhile")
        log.info("mcp_server_started", server=name, tools=len(tools))

    def call(self, server: str, tool: str, arguments: JSONObject) -> str:
        """Call a tool and return its text.

        Raises:
            NotFound: its server is gone.
            Failed: its server is stopped, or the call failed or took too long.
        """
        with self._platform.uow() as uow:
            if find(uow.session, server).status != "running":
                raise Failed(f"MCP server '{server}' is not running")
        return self._pool.call(self._server(server), tool, arguments)

    def _server(self, name: str) -> Server:
        with self._platform.uow() as uow:
            row = find(uow.session, name)
            try:
                secrets = secrets_service.platform_values(uow.session, self._platform.cipher)
            except VaultError as exc:
                raise Failed("secret vault error") from exc
            return configs.resolved(row.config, row.version, secrets)

    def _versions(self) -> dict[str, int]:
        with self._platform.uow() as uow:
            query = select(MCPServer.name, MCPServer.version).where(MCPServer.status == "running")
            return {row[0]: row[1] for row in uow.session.execute(query)}

    def _note(
        self, name: str, version: int, *, tools: list[RemoteTool] | None = None, error: str = ""
    ) -> bool:
        """Write down how a start ended; tell whether the row is still the one that was started."""
        with self._platform.uow() as uow:
            row = find(uow.session, name, lock=True)
            if row.version != version:
                return False
            row.status = "error" if tools is None else "running"
            row.error = error or None
            row.updated_at = func.now()
            _set_tools(uow, name, tools or [])
        return True
