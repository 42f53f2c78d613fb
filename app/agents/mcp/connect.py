"""How a client of one MCP server comes to be, through the official library.

Imported on first use: the library takes a second and some memory.

Source: REST contract part 40, section 4; ADR 0016.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio.to_thread
import httpcore2
import httpx2
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from app.agents.mcp.config import Server
from app.core.outgoing import (
    LOOPBACK_HOSTS,
    USER_AGENT,
    Guard,
    IPNetwork,
    OutgoingError,
    check_url,
)

CONNECT_S: Final = 10.0
SILENCE_S: Final = 300.0
MAX_JSON_BYTES: Final = 8 * 1024 * 1024
TAIL_BYTES: Final = 300
# The library hands its own choice of variables on; the contract names three and no other.
NOT_INHERITED: Final = ("LOGNAME", "SHELL", "TERM", "USER")


class StdioDied(Exception):
    """A program could not be talked to; the text is the end of what it wrote to stderr."""


@asynccontextmanager
async def client_of(server: Server, networks: tuple[IPNetwork, ...]) -> AsyncIterator[Client]:
    """Connect to a server and shake hands; the client is closed at the end of the block."""
    if server.kind == "stdio":
        async with _program(server) as client:
            yield client
        return
    async with _http_client(server, networks) as http:
        if server.kind == "http":
            transport: Any = streamable_http_client(server.url, http_client=http)
        else:
            transport = sse_client(
                server.url,
                sse_read_timeout=SILENCE_S,
                httpx_client_factory=partial(_made_client, server, networks),
            )
        async with Client(transport) as client:
            yield client


@asynccontextmanager
async def _program(server: Server) -> AsyncIterator[Client]:
    program, *args = server.command
    unset = [part for name in NOT_INHERITED for part in ("-u", name)]
    folder = tempfile.gettempdir()
    parameters = StdioServerParameters(
        command="env",
        args=[*unset, "--", program, *args],
        env={"TMPDIR": folder, **server.env},
        cwd=folder,
        encoding_error_handler="replace",
    )
    with tempfile.TemporaryFile("w+b") as stderr:
        connected = False
        try:
            async with Client(stdio_client(parameters, errlog=stderr)) as client:  # type: ignore[arg-type]
                connected = True
                yield client
        except Exception as exc:
            size = stderr.seek(0, 2)
            stderr.seek(max(0, size - TAIL_BYTES))
            said = stderr.read().decode(errors="replace").strip()
            if connected or not said:
                raise
            raise StdioDied(said.splitlines()[-1]) from exc


def _http_client(server: Server, networks: tuple[IPNetwork, ...]) -> httpx2.AsyncClient:
    host = check_url(server.url, loopback=True)
    guard = Guard(networks, here=host in LOOPBACK_HOSTS)
    return httpx2.AsyncClient(
        transport=_GuardedTransport(guard),
        headers={"User-Agent": USER_AGENT, **server.headers},
        timeout=httpx2.Timeout(CONNECT_S, read=SILENCE_S),
        follow_redirects=False,
        trust_env=False,
    )


def _made_client(
    server: Server,
    networks: tuple[IPNetwork, ...],
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,
    auth: httpx2.Auth | None = None,
) -> httpx2.AsyncClient:
    """Return our client where the library wants to choose its options itself."""
    del headers, timeout, auth
    return _http_client(server, networks)


class _GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to checked addresses only, and reads no endless JSON."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            network_backend=_GuardedBackend(guard),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        response = await super().handle_async_request(request)
        if response.headers.get("content-type", "").startswith("application/json"):
            response.stream = _Limited(response.stream)  # type: ignore[arg-type]  # async here
        return response


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_JSON_BYTES:
                raise httpx2.ReadError("answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves, checks and connects in one step, as ``app.core.outgoing`` does."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        try:
            addresses = await anyio.to_thread.run_sync(self._guard.allowed, host, port)
        except (OSError, OutgoingError) as exc:
            raise httpcore2.ConnectError(str(exc)) from exc
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure or httpcore2.ConnectError("no address")

    async def sleep(self, seconds: float) -> None:
        await self._sockets.sleep(seconds)
