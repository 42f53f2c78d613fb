"""The one way out: HTTP requests to addresses that other people typed in.

A name is resolved once and the connection goes to an address that was checked, so that a name
cannot be harmless while it is looked at and point inside when it is connected to.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        from app.core import pinned

        target = _target(url, loopback=loopback)
        here = loopback and target.host in LOOPBACK_HOSTS
        sent = {"Accept": "application/json", "User-Agent": USER_AGENT, **(headers or {})}
        try:
            with pinned.request(
                method,
                target,
                headers=sent,
                body=body,
                timeout_s=timeout_s,
                addresses=Guard(self.networks, here=here).allowed,
            ) as response:
                return Answer(
                    response.status,
                    {k.decode().lower(): v.decode("latin-1") for k, v in response.headers},
                    _read(response.iter_stream(), max_bytes),
                )
        except (*pinned.ERRORS, OSError, ValueError) as exc:
            raise OutgoingError(f"{method} to {target.host} failed: {exc!r}") from exc


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
    import httpx

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


def _read(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise OutgoingError(f"answer is larger than {max_bytes} bytes")
    return bytes(body)


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
