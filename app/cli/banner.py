"""The message that says where the platform is and what to try."""

from __future__ import annotations

import http.client
import time

import redis

from app.cli.plan import Plan
from app.cli.supervisor import Supervisor
from app.core.nodes import NODE_PREFIX

PROBE_EVERY_S = 0.04
WORKER_WAIT_S = 15.0


class Banner:
    """Says once where the platform is, as soon as it can be used.

    That is when the web process answers and a worker has reported to the broker. A worker that
    takes longer does not hold the message up for ever.
    """

    def __init__(self, plan: Plan, supervisor: Supervisor, redis_url: str) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._redis = redis.Redis.from_url(
            redis_url, socket_connect_timeout=0.5, socket_timeout=0.5
        )
        self._wait_until = float("inf")
        self._next_probe = 0.0
        self._shown = False

    def tick(self) -> None:
        """Probe now and then until the web process answers."""
        late = time.monotonic() >= self._next_probe
        if self._shown or self._supervisor.stopping or not late:
            return
        self._next_probe = time.monotonic() + PROBE_EVERY_S
        if not self._web_answers():
            return
        self._wait_until = min(self._wait_until, time.monotonic() + WORKER_WAIT_S)
        if not self._worker_reported() and time.monotonic() < self._wait_until:
            return
        self._shown = True
        self._redis.close()
        for line in self._lines():
            self._supervisor.say(line)

    def _web_answers(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._plan.host, self._plan.host)  # noqa: S104 -- compared only
        connection = http.client.HTTPConnection(host, self._plan.port, timeout=0.5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _worker_reported(self) -> bool:
        try:
            return any(True for _ in self._redis.scan_iter(f"{NODE_PREFIX}*", count=1000))
        except redis.RedisError:
            return False

    def _lines(self) -> list[str]:
        url = self._plan.url
        return [
            f"Trellis is ready at {url}",
            "Three things to try next:",
            "1. Create the first account; it becomes the administrator:",
            f"   curl -s {url}/api/v1/auth/register -H 'Content-Type: application/json' "
            '-d \'{"email": "you@example.com", "password": "Str0ngPass!x", "displayName": "You"}\'',
            f"2. Read and try the API in a browser: {url}/api/v1/docs",
            "3. Install an app from examples/, as the README shows.",
        ]
