"""The runtime's end of the socket to its node: one connection, and its end is ours."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from workers_runtime.channel import LineSplitter
from workers_runtime.node_protocol import (
    MAX_NODE_LINE_BYTES,
    Message,
    ProtocolError,
    decode,
    encode,
)

log = logging.getLogger(__name__)

HIGH_WATER_BYTES = 16 * 1024 * 1024
LOG_WATER_BYTES = 1024 * 1024


class Control(asyncio.Protocol):
    """Connection to the node.

    Args:
        on_connect: the node is there; send it the welcome.
        on_message: one decoded message.
        on_pressure: True when the node reads too slowly, False when it caught up.
        on_end: the node is gone.
    """

    def __init__(
        self,
        *,
        on_connect: Callable[[], None],
        on_message: Callable[[Message], None],
        on_pressure: Callable[[bool], None],
        on_end: Callable[[], None],
    ) -> None:
        self._on_connect = on_connect
        self._on_message = on_message
        self._on_pressure = on_pressure
        self._on_end = on_end
        self._splitter = LineSplitter(MAX_NODE_LINE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] | None = None

    def send(self, message: Message) -> None:
        """Queue one message; nothing happens once the node is gone.

        The first one of a turn of the event loop leaves at once and the others together at its
        end, for each write wakes the node.
        """
        if self._transport is None:
            return
        line = encode(message)
        if self._held is not None:
            self._held.append(line)
            return
        self._held = []
        asyncio.get_running_loop().call_soon(self._release)
        self._transport.write(line)

    def _release(self) -> None:
        lines, self._held = self._held, None
        if lines and self._transport is not None:
            self._transport.write(b"".join(lines))

    def congested(self) -> bool:
        """Say whether log lines should wait."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > LOG_WATER_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the first connection of our own user, refuse others."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # a stream server
        if self._transport is not None or not _same_user(transport):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport
        self._on_connect()

    def data_received(self, data: bytes) -> None:
        """Decode complete lines."""
        for line in self._splitter.feed(data):
            try:
                message = decode(line)
            except ProtocolError as exc:
                log.warning("node_message_refused", extra={"reason": str(exc)})
                continue
            try:
                self._on_message(message)
            except Exception:
                # asyncio would close the connection, and that ends every app of the node.
                log.exception("node_message_failed", extra={"message_type": message.TYPE})

    def pause_writing(self) -> None:
        """Pass the pressure on to the app processes."""
        self._on_pressure(True)

    def resume_writing(self) -> None:
        """Let them speak again."""
        self._on_pressure(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the runtime with its node."""
        del exc
        if self._transport is not None:
            self._transport = None
            self._on_end()


def _same_user(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", data)
    return bool(uid == os.geteuid())


async def listen(path: Path, control: Control) -> asyncio.Server:
    """Open the socket in its private folder.

    Raises:
        OSError: the path cannot be bound, or others can enter its folder.
    """
    if path.parent.stat().st_mode & 0o077:
        raise OSError(f"{path.parent} must be private to its owner (mode 0700)")
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: control, path)
