"""Starts of MCP servers, and calls of their tools that come from the API."""

from __future__ import annotations

from typing import Any

from app.agents.messages import CallMCPTool, StartMCPServer
from app.core.platform import Platform
from tasks.agents import runner_of
from tasks.base import task
from tasks.node import current_node
from tasks.workers import answered


@task(StartMCPServer, acks_late=False)
def start(platform: Platform, server: str, question: str, reply_to: str) -> None:
    """Connect to a server and write down its tools."""
    node = current_node()
    node.outgoing.tell(reply_to, question)
    mcp = runner_of(platform).mcp
    answered(node, reply_to, question, lambda: mcp.start(server))


@task(CallMCPTool, acks_late=False)
def call(
    platform: Platform,
    *,
    server: str,
    tool: str,
    given: dict[str, Any],  # Any: JSON values
    question: str,
    reply_to: str,
) -> None:
    """Call a tool for a caller whose permission was checked."""
    node = current_node()
    node.outgoing.tell(reply_to, question)
    mcp = runner_of(platform).mcp
    answered(node, reply_to, question, lambda: mcp.call(server, tool, given))
