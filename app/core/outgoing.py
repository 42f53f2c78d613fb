"""The one way out: HTTP requests to addresses that other people typed in.

A name is resolved once and the connection goes to an address that was checked, so that a name
cannot be harmless while it is looked at and point inside when it is connected to. httpx has no
place for that, httpcore (its transport) has.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore
import httpx

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
USER_AGENT = "Trellis"


class OutgoingError(Exception):
    """A request was refused or failed; the text is for logs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # Any: a JSON value
        """Return the JSON value of the body.

        Raises:
            OutgoingError: the body is no JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise OutgoingError("answer is not JSON") from exc


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Sends requests within limits; follows no redirect, uses no proxy of the environment.

    Attributes:
        networks: private networks an operator allows all the same.
    """

    networks: tuple[IPNetwork, ...] = ()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = 10,
        max_bytes: int = 1024 * 1024,
        loopback: bool = False,
    ) -> Answer:
        """Send one request and return the whole answer, whatever its status.

        Args:
            method: HTTP method.
            url: ``https``; ``http`` only with ``loopback`` and a loopback host.
            headers: further headers.
            body: sent as it is.
            timeout_s: seconds from the look-up of the name to the last byte.
            max_bytes: size limit of the answer's body.
            loopback: this machine may be addressed by its loopback names.

        Raises:
            OutgoingError: the URL or the address is not allowed, or the request failed.
        """
        target = _target(url, loopback=loopback)
        deadline = time.monotonic() + timeout_s
        here = loopback and target.host in LOOPBACK_HOSTS
        backend = _PinnedBackend(Guard(self.networks, here=here), deadline)
        sent = {"Accept": "application/json", "User-Agent": USER_AGENT, **(headers or {})}
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=_tls(), max_connections=1, network_backend=backend
                ) as pool,
                pool.stream(
                    method,
                    _core_url(target),
                    headers=[("Host", target.netloc.decode("ascii")), *sent.items()],
                    content=body or None,
                    extensions={"timeout": dict.fromkeys(_TIMEOUTS, timeout_s)},
                ) as response,
            ):
                return Answer(
                    response.status,
                    {k.decode().lower(): v.decode("latin-1") for k, v in response.headers},
                    _read(response.iter_stream(), max_bytes),
                )
        except (*_CORE_ERRORS, OSError, ssl.SSLError, ValueError) as exc:
            raise OutgoingError(f"{method} to {target.host} failed: {exc!r}") from exc


_TIMEOUTS = ("connect", "read", "write", "pool")
_CORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


def check_url(url: str, *, loopback: bool) -> str:
    """Return the host of a URL that may be addressed; its addresses are checked by ``Guard``.

    Raises:
        OutgoingError: it is no URL, has credentials in it, or is not ``https``.
    """
    return _target(url, loopback=loopback).host


def is_loopback_host(host: str) -> bool:
    """Tell whether a host of a URL names this machine: ``localhost``, 127.0.0.0/8, ``::1``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _target(url: str, *, loopback: bool) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as exc:
        raise OutgoingError("not a valid URL") from exc
    if not target.host or target.userinfo:
        raise OutgoingError("not a valid URL")
    plain_allowed = loopback and target.host in LOOPBACK_HOSTS
    if target.scheme != "https" and not (target.scheme == "http" and plain_allowed):
        raise OutgoingError("only https is allowed")
    return target


def _core_url(target: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=target.raw_scheme,
        host=target.raw_host,
        port=target.port,
        target=target.raw_path,
    )


def _read(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise OutgoingError(f"answer is larger than {max_bytes} bytes")
    return bytes(body)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class Guard:
    """Which addresses may be connected to.

    Attributes:
        networks: private networks an operator allows all the same.
        here: only this machine's own.
    """

    networks: tuple[IPNetwork, ...]
    here: bool

    def allowed(self, host: str, port: int) -> Sequence[str]:
        """Look a name up and return the addresses that may be connected to.

        Raises:
            OutgoingError: there is none.
            OSError: the name is not known.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        good = [text for text in addresses if self._is_allowed(text)]
        if not good:
            raise OutgoingError(f"address of {host} is not allowed")
        return good

    def _is_allowed(self, text: str) -> bool:
        address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
        if self.here:
            return address.is_loopback
        if any(address in network for network in self.networks):
            return True
        return address.is_global and not address.is_multicast


def _innermost(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 address only wraps."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class _PinnedBackend(httpcore.NetworkBackend):
    """Resolves, checks and connects in one step; everything ends at one deadline."""

    def __init__(self, guard: Guard, deadline: float) -> None:
        self._guard = guard
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
        for address in self._guard.allowed(host, port):
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
