"""A REST service on loopback: records every request, answers by the book, or as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON value of the body."""
        return json.loads(self.raw) if self.raw else None

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form."""
        return {k: v[0] for k, v in parse_qs(self.raw.decode()).items()}


@dataclass(frozen=True)
class Told:
    """An answer; bytes are sent as they are, anything else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class FakeService:
    """Base of fakes: subclasses answer in ``handle``; ``next`` holds answers that go before."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.next: list[Told] = []
        self.lock = threading.Lock()

    def handle(self, asked: Asked) -> Told:
        """Answer a request."""
        return Told(404, {"message": "no such path"})

    def tell(self, status: int, body: Any = None, **headers: str) -> None:
        """Have the next request answered so."""
        self.next.append(Told(status, body, {k.replace("_", "-"): v for k, v in headers.items()}))

    def take(self) -> list[Asked]:
        """Return the requests since the last call."""
        with self.lock:
            asked, self.asked = self.asked, []
        return asked

    def answer(self, asked: Asked) -> Told:
        with self.lock:
            self.asked.append(asked)
            if self.next:
                return self.next.pop(0)
        return self.handle(asked)


@contextmanager
def serving(service: FakeService) -> Iterator[None]:
    """Serve on a free loopback port until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k.lower(): v for k, v in self.headers.items()}
            told = service.answer(Asked(self.command, parts.path, query, headers, raw))
            data = told.body if isinstance(told.body, bytes) else json.dumps(told.body).encode()
            if told.body is None:
                data = b""
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            with contextlib.suppress(ConnectionError):  # whoever asked may be gone
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
