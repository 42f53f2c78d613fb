"""Rules of providers and redirects that need neither database nor network.

Source: REST contract part 10, sections 6.2 and 6.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from app.core.errors import Invalid
from app.core.outgoing import LOOPBACK_HOSTS, is_loopback_host

Claims = Mapping[str, Any]  # Any: JSON values

PROVIDER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
RESERVED_IDS = frozenset({"providers", "callback", "token-exchange"})
# Browsers read a backslash as a slash and drop tabs and line ends; urllib does neither.
SAFE_URL = re.compile(r"[!-\[\]-~]+")
DEFAULT_PORTS = {"http": 80, "https": 443}
# Of signatures of ID tokens.
ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)


def check_provider_id(text: str) -> None:
    """Refuse an id no provider may have.

    Raises:
        Invalid: missing, badly spelled or reserved.
    """
    if not text:
        raise Invalid("id is required")
    if PROVIDER_ID.fullmatch(text) is None or text in RESERVED_IDS:
        raise Invalid("invalid provider id")


def check_issuer(text: str) -> None:
    """Refuse an issuer that is no absolute URL or could be read on the way.

    Raises:
        Invalid: not a URL, or not ``https`` and not on this machine.
    """
    parts = _split(text)
    if parts is None or parts.query or parts.fragment or parts.username is not None:
        raise Invalid("issuerUrl is not a valid URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local_issuer(text)):
        raise Invalid("issuerUrl must use https")


def is_local_issuer(issuer_url: str) -> bool:
    """Tell whether an issuer runs on this machine (development)."""
    return (urlsplit(issuer_url).hostname or "") in LOOPBACK_HOSTS


def check_redirect(text: str, public_url: str) -> None:
    """Refuse to hand tokens to an address that is neither ours nor on the user's machine.

    Args:
        text: what the client sent; empty: no redirect is wanted.
        public_url: our own external address.

    Raises:
        Invalid: unparsable, or on a foreign host.
    """
    if not text:
        return
    parts = _split(text)
    if parts is None or parts.username is not None or parts.password is not None:
        raise Invalid("invalid redirect_uri")
    ours = _origin(parts) == _origin(urlsplit(public_url))
    if parts.scheme not in DEFAULT_PORTS or not (ours or is_loopback_host(parts.hostname or "")):
        raise Invalid("redirect_uri must be on this server or on a loopback address")


def check_link_target(text: str) -> None:
    """Refuse an address that no link may lead to.

    Raises:
        Invalid: not an absolute ``http`` or ``https`` URL, or one with user info.
    """
    parts = _split(text)
    if parts is None or parts.scheme not in DEFAULT_PORTS or "@" in parts.netloc:
        raise Invalid("redirectUri must be an http or https URL without user info")


def with_query(url: str, values: Mapping[str, str], *, fragment: str | None = None) -> str:
    """Return a URL with parameters added to those it has, and perhaps another fragment."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(values))))
    return urlunsplit(
        parts._replace(query=query, fragment=parts.fragment if fragment is None else fragment)
    )


def _split(text: str) -> SplitResult | None:
    if SAFE_URL.fullmatch(text) is None:
        return None
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        return None
    return parts if parts.scheme and parts.hostname else None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
