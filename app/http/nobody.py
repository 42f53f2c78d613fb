"""Requests without a token, where an app's manifest lets nobody in.

Source: REST contract part 20, sections 3.12 and 8; ADR 0012.
"""

from __future__ import annotations

import hashlib
import time
from math import ceil

import structlog
from flask import Request
from redis.exceptions import RedisError

from app.core.errors import TooMany
from app.core.platform import Platform

log = structlog.get_logger(__name__)

WINDOW_S = 60


def is_nobody(request: Request) -> bool:
    """Tell whether a request carries no credential at all; a bad one is not nobody's."""
    return "Authorization" not in request.headers


def bearer_token(request: Request) -> str | None:
    """Return the bearer token of a request, whatever it is for."""
    header = request.authorization
    return header.token if header is not None and header.type == "bearer" else None


def brake(platform: Platform, request: Request) -> None:
    """Count a request of a client address in this minute.

    Redis away: nothing is counted and one line is logged.

    Raises:
        TooMany: the address sent more than the setting allows.
    """
    limit = platform.settings.http.public_requests_per_minute
    if not limit:
        return
    now = time.time()
    key = f"public:requests:{digest(request.remote_addr or '')}:{int(now // WINDOW_S)}"
    try:
        with platform.redis.pipeline(transaction=False) as pipe:
            pipe.incr(key)
            pipe.expire(key, 2 * WINDOW_S)
            count = pipe.execute()[0]
    except (RedisError, OSError) as exc:
        log.warning("public_brake_unavailable", reason=type(exc).__name__)
        return
    if count > limit:
        wait_s = max(1, ceil(WINDOW_S - now % WINDOW_S))
        raise TooMany("too many requests, try again later", retry_after_s=wait_s)


def digest(address: str) -> str:
    """Return what stands for a client address in Redis."""
    return hashlib.sha256(address.encode()).hexdigest()[:32]
