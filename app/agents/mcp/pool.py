"""This process's clients of MCP servers: opened lazily, closed when idle or out of date.

All live on one event loop on a thread of its own; runs wait for it like for any other tool.

Source: REST contract part 40, section 4.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from app.agents.mcp.config import Server
from app.core.errors import Failed
from app.core.outgoing import IPNetwork

log = structlog.get_logger(__name__)

T = TypeVar("T")
JSONObject = dict[str, Any]  # Any: JSON values

START_S: Final = 30.0
CALL_S: Final = 30.0
IDLE_S: Final = 600.0
TIDY_S: Final = 5.0
MAX_PAGES: Final = 100
MAX_TOOLS: Final = 500
MAX_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool as its server describes it."""

    name: str
    description: str
    input_schema: JSONObject


class Pool:
    """Clients of MCP servers. Thread-safe; its thread lives as long as it has clients.

    Args:
        networks: private networks that may be addressed.
        versions: returns the versions of all running servers by name; asked now and then.
    """

    def __init__(
        self, networks: tuple[IPNetwork, ...], versions: Callable[[], Mapping[str, int]]
    ) -> None:
        self._networks = networks
        self._versions = versions
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[str, _Connection] = {}

    def tools(self, server: Server) -> list[RemoteTool]:
        """Connect anew and return the server's tools.

        Raises:
            Failed: it cannot be connected to, or does not answer as an MCP server does.
        """
        return self._run(self._tools(server), START_S, server, late="no answer in time")

    def call(self, server: Server, tool: str, arguments: JSONObject) -> str:
        """Call a tool and return its text.

        Raises:
            Failed: the tool or the connection failed, or it took too long.
        """
        return self._run(self._call(server, tool, arguments), CALL_S, server, late="")

    def _run(self, work: Coroutine[Any, Any, T], limit_s: float, server: Server, *, late: str) -> T:
        # Loading the library must not count: it happens once, and takes long on a busy machine.
        from app.agents.mcp import connect

        del connect
        future: Future[T] = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(work, limit_s), self._running_loop()
        )
        try:
            return future.result(limit_s + 5)
        except (FutureTimeout, TimeoutError) as exc:
            raise Failed(late or "tool timed out") from exc
        except Failed:
            raise
        except Exception as exc:
            raise Failed(reason_of(exc, server.secrets)) from exc

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._serve, args=(self._loop,), daemon=True).start()
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        threading.current_thread().name = "mcp"
        asyncio.set_event_loop(loop)
        self._tidying = loop.create_task(self._tidy())
        loop.run_forever()

    # --- on the loop -----------------------------------------------------------------------

    async def _tools(self, server: Server) -> list[RemoteTool]:
        self._drop(server.name)
        connection = await self._connected(server)
        found: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await connection.client.list_tools(cursor=cursor, cache_mode="refresh")
            found += [
                RemoteTool(tool.name, tool.description or "", dict(tool.input_schema))
                for tool in page.tools
            ]
            if len(found) > MAX_TOOLS:
                break
            cursor = page.next_cursor
            if cursor is None:
                return found
        self._drop(server.name)
        raise Failed(f"the server lists more than {MAX_TOOLS} tools or does not stop listing")

    async def _call(self, server: Server, tool: str, arguments: JSONObject) -> str:
        connection = await self._connected(server)
        connection.busy += 1
        try:
            result = await connection.client.call_tool(tool, arguments)
        except BaseException as exc:
            if _is_broken(exc):
                # Whoever calls next gets a new connection.
                self._drop(server.name, connection)
            raise
        finally:
            connection.busy -= 1
            connection.last_used = time.monotonic()
        text = "\n".join(
            part.text if part.type == "text" else f"[{part.type} content]"
            for part in result.content
        )
        if result.is_error:
            raise Failed(text or "tool failed")
        return text

    async def _connected(self, server: Server) -> _Connection:
        found = self._connections.get(server.name)
        if found is None or found.server.version != server.version or found.task.done():
            self._drop(server.name)
            found = self._connections[server.name] = _Connection(server, self._networks)
        try:
            await asyncio.shield(found.ready)
        except BaseException:
            # Also when the time is up: whoever comes next must not wait for this one.
            self._drop(server.name, found)
            raise
        return found

    def _drop(self, name: str, connection: _Connection | None = None) -> None:
        found = self._connections.get(name)
        if found is not None and connection in {None, found}:
            del self._connections[name]
            found.leave()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            if not self._connections:
                continue
            try:
                versions = await asyncio.to_thread(self._versions)
            except Exception as exc:
                log.info("mcp_servers_not_checked", reason=type(exc).__name__)
                continue
            for name, connection in list(self._connections.items()):
                if connection.busy or not connection.ready.done():
                    continue
                idle = time.monotonic() - connection.last_used > IDLE_S
                if idle or versions.get(name) != connection.server.version:
                    self._drop(name)


class _Connection:
    """A client and the task it lives in: the library closes it where it was opened."""

    client: Any  # Any: the library's Client, loaded late

    def __init__(self, server: Server, networks: tuple[IPNetwork, ...]) -> None:
        loop = asyncio.get_running_loop()
        self.server = server
        self.busy = 0
        self.last_used = time.monotonic()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._left = asyncio.Event()
        self.task = loop.create_task(self._live(networks))

    def leave(self) -> None:
        """Close the client; idempotent."""
        self._left.set()
        if not self.ready.done():
            self.task.cancel()

    async def _live(self, networks: tuple[IPNetwork, ...]) -> None:
        from app.agents.mcp.connect import client_of

        try:
            async with client_of(self.server, networks) as client:
                self.client = client
                self.ready.set_result(None)
                await self._left.wait()
        except BaseException as exc:
            text = reason_of(exc, self.server.secrets)
            if isinstance(exc, asyncio.CancelledError):
                text = "the connection was given up"
            if not self.ready.done():
                self.ready.set_exception(Failed(text))
                # Somebody may have stopped waiting for it.
                self.ready.exception()
            else:
                log.info("mcp_connection_ended", server=self.server.name, reason=text)


def reason_of(exc: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """Return a short text for what went wrong, without secrets."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    text = " ".join(str(exc).split()) or type(exc).__name__
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    return text[:MAX_REASON]


def _is_broken(exc: BaseException) -> bool:
    """Tell whether a failed call was the connection's fault; a tool's own errors are no cause."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import CONNECTION_CLOSED

    if isinstance(exc, MCPError):
        return exc.code == CONNECTION_CLOSED
    return True
