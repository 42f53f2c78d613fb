"""Tools of MCP servers as any other tool.

Source: REST contract part 40, sections 1.3, 3.1 and 4.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.agents.models import MCPServer, MCPTool
from app.agents.tools.base import Tool, ToolContext, check_schema, tool_key
from app.core.errors import Failed, Invalid

JSONObject = dict[str, Any]  # Any: JSON values
CallTool = Callable[[str, str, JSONObject], str]
"""Calls a tool: server, the server's own name of the tool, arguments."""

MAX_NAME: Final = 64
HASH_CHARS: Final = 8
ANYTHING: Final[JSONObject] = {"type": "object"}


def load(session: Session, call: CallTool) -> dict[str, Tool]:
    """Return the tools of all running servers by name.

    Args:
        session: an open transaction.
        call: how to call one from this process.
    """
    return {row.name: _tool(row, call) for row in rows(session)}


def rows(session: Session) -> list[MCPTool]:
    """Return the descriptions of the tools of all running servers, by name."""
    query = select(MCPTool).join(MCPServer, MCPServer.name == MCPTool.server)
    running = query.where(MCPServer.status == "running")
    return list(session.scalars(running.order_by(MCPTool.name)))


def registered_name(server: str, tool: str, taken: Collection[str]) -> str:
    """Return the name a tool gets here: ``{server}_{tool}``, unlike any whose key is taken."""
    full = f"{server}_{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", full)[:MAX_NAME]
    if tool_key(name) not in taken:
        return name
    suffix = hashlib.sha256(full.encode()).hexdigest()[:HASH_CHARS]
    return f"{name[: MAX_NAME - HASH_CHARS - 1]}_{suffix}"


def usable_schema(schema: JSONObject) -> JSONObject:
    """Return a server's schema of arguments; one that is broken lets everything through.

    The server checks its arguments itself; ours only spares it and the model a round.
    """
    try:
        Draft202012Validator.check_schema(schema)
        check_schema(schema, {}, "args")
    except (Failed, SchemaError):
        return ANYTHING
    except Invalid:
        # Fine: no tool has to accept an empty call.
        return schema
    return schema


def _tool(row: MCPTool, call: CallTool) -> Tool:
    parameters = {key: value for key, value in row.input_schema.items() if key != "type"}
    return Tool(
        name=row.name,
        description=row.description,
        parameters=parameters,
        run=partial(_run, call, row.server, row.remote_name),
        foreign=True,
    )


def _run(
    call: CallTool, server: str, tool: str, _context: ToolContext, arguments: JSONObject
) -> str:
    return call(server, tool, arguments)
