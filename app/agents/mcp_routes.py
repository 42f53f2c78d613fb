"""MCP servers over HTTP.

Source: REST contract part 40, section 4.
"""

from __future__ import annotations

from typing import Any

from app.agents.mcp import servers
from app.agents.schemas import MCPMessageOut, MCPServerIn, MCPServerOut, MCPStatusOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("mcp", __name__, description="MCP servers, whose tools agents may use")

MANAGE = "admin:mcp.manage"
JSONObject = dict[str, Any]  # Any: JSON values


@blp.route(f"{PREFIX}/mcp-servers")
class Servers(View):
    """Registered servers."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, MCPServerOut(many=True))
    @blp.doc(summary="List MCP servers")
    def get(self) -> list[JSONObject]:
        """Return the servers by name."""
        with self.platform.uow.reading() as session:
            return servers.list_servers(session)

    @gates.permission(MANAGE)
    @blp.arguments(MCPServerIn)
    @blp.response(200, MCPStatusOut)
    @blp.doc(summary="Register or replace an MCP server")
    def post(self, body: JSONObject) -> JSONObject:
        """Keep it, and start it if asked."""
        return servers.put(self.platform, **body)


@blp.route(f"{PREFIX}/mcp-servers/<name>")
class ServerView(View):
    """One server."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, MCPServerOut)
    @blp.doc(summary="Get an MCP server")
    def get(self, name: str) -> JSONObject:
        """Return it."""
        with self.platform.uow.reading() as session:
            return servers.shown(servers.find(session, name))

    @gates.permission(MANAGE)
    @blp.response(200, MCPMessageOut)
    @blp.doc(summary="Remove an MCP server")
    def delete(self, name: str) -> JSONObject:
        """Stop and forget it."""
        return servers.remove(self.platform, name)


@blp.route(f"{PREFIX}/mcp-servers/<name>/start")
class Start(View):
    """Starting a server."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, MCPStatusOut)
    @blp.doc(summary="Start an MCP server")
    def post(self, name: str) -> JSONObject:
        """Connect to it and register its tools."""
        return servers.start(self.platform, name)


@blp.route(f"{PREFIX}/mcp-servers/<name>/stop")
class Stop(View):
    """Stopping a server."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, MCPStatusOut)
    @blp.doc(summary="Stop an MCP server")
    def post(self, name: str) -> JSONObject:
        """Take its tools away."""
        return servers.stop(self.platform, name)
