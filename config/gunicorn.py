"""Gunicorn's settings for the web process; it reads the module's variables.

gevent is used here and only here: SSE clients and calls that wait for an answer are many and
idle. HOST, PORT and WEB_CONCURRENCY come from the environment, as on any Procfile platform.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from gevent import monkey

# Before anything else is imported: the app is loaded once here and forked, which halves the time
# of a start and the memory of every worker but the first.
monkey.patch_all()

from gunicorn.http import wsgi  # noqa: E402 - after the patch, as everything

from config.garbage import settle  # noqa: E402

preload_app = True
# Nothing made while loading is garbage; looking for it takes a sixth of the time.
gc.disable()

_host = os.environ.get("HOST") or "127.0.0.1"
_port = os.environ.get("PORT") or "9100"

bind = [f"[{_host}]:{_port}" if ":" in _host else f"{_host}:{_port}"]
workers = int(os.environ.get("WEB_CONCURRENCY") or "2")
worker_class = "gevent"
worker_connections = 2000
backlog = 2048
keepalive = 15
timeout = 60
# Event streams never end by themselves; clients reconnect, so a stop does not wait for them.
graceful_timeout = 5
# Whom to believe about forwarding is TRUSTED_PROXY_COUNT's affair. Here everybody may set nothing,
# so gunicorn need not look up each sender among those who may set something.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# Heartbeat files on a disk can stall a worker when the disk is busy.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# The control socket would be written to the home directory, which may be missing.
control_socket_disable = True
proc_name = "trellis-web"
errorlog = "-"
loglevel = (os.environ.get("LOG_LEVEL") or "info").lower()


class Response(wsgi.Response):  # type: ignore[misc]  # gunicorn ships no types
    """Sends the head of an answer together with the first piece of its body.

    Gunicorn sends them one after the other, which wakes the client twice and costs a short request
    a twentieth of its time.
    """

    sock: Any  # Any: a socket, or what stands for one

    def write(self, arg: bytes) -> None:
        """Send a piece of the body, after the head if that is still to be sent."""
        if self.headers_sent:
            super().write(arg)
            return
        kept, self.sock = self.sock, Pieces()
        try:
            super().write(arg)
        finally:
            pieces, self.sock = self.sock, kept
        self.sock.sendall(b"".join(pieces))


class Pieces(list[bytes]):
    """Takes what would go out by a socket."""

    sendall = list[bytes].append


wsgi.Response = Response


def when_ready(_server: Any) -> None:  # Any: gunicorn ships no types
    """Look for garbage again; workers share the pages of what was loaded."""
    settle()


def post_fork(_server: Any, _worker: Any) -> None:  # Any: gunicorn ships no types
    """Let psycopg2 wait in gevent's event loop instead of blocking every request.

    Source: psycopg2's documentation, "Support for coroutine libraries".
    """
    from psycopg2.extensions import set_wait_callback

    set_wait_callback(_wait)


def _wait(connection: Any) -> None:  # Any: psycopg2's connection
    from gevent.socket import wait_read, wait_write
    from psycopg2 import OperationalError
    from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

    while (state := connection.poll()) != POLL_OK:
        if state == POLL_READ:
            wait_read(connection.fileno())
        elif state == POLL_WRITE:
            wait_write(connection.fileno())
        else:
            raise OperationalError(f"unexpected answer of poll: {state}")
