"""A closed-loop HTTP load generator that costs little itself: bytes in, bytes out, asyncio."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Result of one run.

    Attributes:
        per_second: completed requests per second.
        latencies_ms: of every request, sorted.
        failed: answers that were not the expected ones.
    """

    per_second: float
    latencies_ms: list[float]
    failed: int

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds."""
        return self.latencies_ms[
            min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * share))
        ]

    @property
    def p50(self) -> float:
        """Median latency in milliseconds."""
        return statistics.median(self.latencies_ms)


def request(
    path: str,
    body: bytes = b"",
    *,
    token: str = "",
    port: int,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return one request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Client(asyncio.Protocol):
    """One connection that sends the next request when the answer to the last is complete."""

    def __init__(self, data: bytes, expected: bytes, until: float) -> None:
        self._data, self._expected, self._until = data, expected, until
        self._buffer = bytearray()
        self.latencies: list[float] = []
        self.failed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) < length:
            return
        answered = head.startswith(b"HTTP/1.1 2")
        wrong = self._expected and bytes(rest[:length]).strip() != self._expected
        self._buffer.clear()
        self.latencies.append((time.perf_counter() - self._started) * 1000)
        if wrong or not answered:
            self.failed += 1
        if time.monotonic() < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.failed += 1
            self.done.set_result(None)


def run(data: bytes, expected: bytes, *, port: int, clients: int, seconds: float) -> Load:
    """Send a request again and again from several connections."""

    async def all_clients() -> Load:
        loop = asyncio.get_running_loop()
        until = time.monotonic() + seconds
        pairs = [
            await loop.create_connection(lambda: _Client(data, expected, until), "127.0.0.1", port)
            for _ in range(clients)
        ]
        started = time.perf_counter()
        await asyncio.gather(*(client.done for _, client in pairs))
        elapsed = time.perf_counter() - started
        latencies = sorted(x for _, client in pairs for x in client.latencies)
        failed = sum(client.failed for _, client in pairs)
        return Load(len(latencies) / elapsed, latencies or [0.0], failed)

    return asyncio.run(all_clients())
