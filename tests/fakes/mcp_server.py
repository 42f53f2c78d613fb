"""A real MCP server, written with the official library.

``python mcp_server.py stdio`` or ``python mcp_server.py http|sse PORT``.
"""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ImageContent, TextContent


def main(kind: str, port: int = 0) -> None:
    server = MCPServer("fake")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(structured_output=False)
    def Mixed() -> list[TextContent | ImageContent]:
        """Answer with several parts."""
        image = ImageContent(type="image", data="AA==", mime_type="image/png")
        text = [TextContent(type="text", text=line) for line in ("one", "two")]
        return [text[0], image, text[1]]

    @server.tool()
    def fail(reason: str) -> str:
        """Fail."""
        raise ToolError(reason)

    @server.tool()
    def sleep(seconds: float) -> str:
        """Take long."""
        time.sleep(seconds)
        return "rested"

    @server.tool(structured_output=False)
    def environment() -> str:
        """Show names of the environment, and one value."""
        return " ".join(sorted(os.environ)) + " TOKEN=" + os.environ.get("TOKEN", "")

    @server.tool(structured_output=False)
    def header(ctx: Context, name: str) -> str:
        """Show a header of the request."""
        return str((ctx.headers or {}).get(name))

    if kind == "stdio":
        server.run()
    else:
        transport = {"http": "streamable-http", "sse": "sse"}[kind]
        server.run(transport, host="127.0.0.1", port=port)  # type: ignore[call-overload]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
