"""One HTTP request over a connection whose address was checked and whose every wait has an end.

httpx has no place for that, httpcore (its transport) has.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import httpcore
import httpx

Addresses = Callable[[str, int], Sequence[str]]
"""Looks up a host and a port; returns the addresses that may be connected to."""

TIMEOUTS: Final = ("connect", "read", "write", "pool")
ERRORS: Final = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


@contextmanager
def request(
    method: str,
    target: httpx.URL,
    *,
    headers: Mapping[str, str],
    body: bytes,
    timeout_s: float,
    addresses: Addresses,
) -> Iterator[httpcore.Response]:
    """Send a request and give the answer, whose body is read inside the block.

    Args:
        method: HTTP method.
        target: absolute URL.
        headers: all but ``Host``.
        body: sent as it is.
        timeout_s: seconds from the look-up of the name to the last byte.
        addresses: looks the name up, once.

    Raises:
        one of ``ERRORS``, OSError: it failed. What ``addresses`` raises comes through.
    """
    backend = _PinnedBackend(addresses, time.monotonic() + timeout_s)
    with (
        httpcore.ConnectionPool(
            ssl_context=_tls(), max_connections=1, network_backend=backend
        ) as pool,
        pool.stream(
            method,
            _core_url(target),
            headers=[("Host", target.netloc.decode("ascii")), *headers.items()],
            content=body or None,
            extensions={"timeout": dict.fromkeys(TIMEOUTS, timeout_s)},
        ) as response,
    ):
        yield response


def _core_url(target: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=target.raw_scheme,
        host=target.raw_host,
        port=target.port,
        target=target.raw_path,
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _PinnedBackend(httpcore.NetworkBackend):
    """Resolves, checks and connects in one step; everything ends at one deadline."""

    def __init__(self, addresses: Addresses, deadline: float) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception | None = None
        for address in self._addresses(host, port):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, _left(self._deadline), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            else:
                return _TimedStream(stream, self._deadline)
        raise failure or httpcore.ConnectError("no address")


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline, so that drips do not prolong it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _TimedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:  # Any: httpcore's signature
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore.ReadTimeout("deadline reached")
    return seconds
