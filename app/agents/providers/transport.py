"""What both official libraries share: the HTTP client, its errors, its deadline.

The libraries' own retries are off; ours follow contract part 40, section 2.2.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

import httpx2
import structlog

from app.agents.providers.base import (
    CONNECT_TIMEOUT_S,
    NO_BYTE_TIMEOUT_S,
    ModelConfig,
    ProviderError,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRYABLE = frozenset({408, 409, 429, 529})
AUTH_HEADERS = ("authorization", "x-api-key")
LOGGED_CHARS = 300


def http_client(config: ModelConfig) -> httpx2.Client:
    """Return the client a library is to use for one model."""
    return httpx2.Client(
        timeout=httpx2.Timeout(
            CONNECT_TIMEOUT_S, read=min(NO_BYTE_TIMEOUT_S, config.timeout_s), write=60.0
        ),
        follow_redirects=False,
        verify=_trust(),
        event_hooks={"request": [_without_key] if config.api_key is None else []},
    )


@cache
def _trust() -> ssl.SSLContext:
    # Reading the certificates takes 30 ms; once is enough for a process.
    return httpx2.create_ssl_context()


def _without_key(request: httpx2.Request) -> None:
    # The libraries insist on some key; a local server that needs none must not get a made-up one.
    for header in AUTH_HEADERS:
        request.headers.pop(header, None)


def before_deadline(items: Iterable[T], config: ModelConfig) -> Iterator[T]:
    """Pass items on until the model call's time is up.

    Raises:
        ProviderError: it is.
    """
    deadline = time.monotonic() + config.timeout_s
    for item in items:
        if time.monotonic() > deadline:
            raise ProviderError(f"no complete answer within {config.timeout_s:g} seconds")
        yield item


def is_json(headers: Mapping[str, str]) -> bool:
    """Tell whether a server ignored ``stream`` and answered with one JSON body."""
    return headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"


def translated(exc: Exception, config: ModelConfig) -> ProviderError:
    """Return what a library's or the HTTP client's error means.

    The provider's own text goes to the log only, without the key.
    """
    status = getattr(exc, "status_code", None)
    if isinstance(status, int):
        _note(exc, config)
        headers: Mapping[str, str] = getattr(getattr(exc, "response", None), "headers", {})
        return ProviderError(
            str(status),
            retryable=status in RETRYABLE or status >= 500,
            retry_after_s=retry_after(headers),
        )
    if isinstance(exc, httpx2.TimeoutException) or "Timeout" in type(exc).__name__:
        return ProviderError("timed out", retryable=True)
    if isinstance(exc, httpx2.HTTPError) or "Connection" in type(exc).__name__:
        return ProviderError("connection failed", retryable=True)
    _note(exc, config)
    return ProviderError("malformed answer", retryable=True)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After`` header, given as a number or a date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _note(exc: Exception, config: ModelConfig) -> None:
    text = str(exc)
    for secret in (config.api_key, *config.headers.values()):
        if secret:
            text = text.replace(secret, "[secret]")
    log.warning("model_refused", provider=config.provider, detail=text[:LOGGED_CHARS])


def early_end() -> ProviderError:
    """Return the error of a stream that stopped without saying that it is complete."""
    return ProviderError("answer ended early", retryable=True)


def optional(config: ModelConfig) -> dict[str, Any]:  # Any: request options
    """Return the options that every request carries only if they were configured."""
    return {} if config.temperature is None else {"temperature": config.temperature}
