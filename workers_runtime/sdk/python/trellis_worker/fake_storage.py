"""File storage for ``testing``: one-time upload addresses on loopback."""

from __future__ import annotations

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeStorage:
    """Takes uploads; the server starts with the first.

    Attributes:
        files: file id -> (name, content type, bytes).
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, str, bytes]] = {}
        self._expected: dict[str, tuple[str, str]] = {}
        self._server: ThreadingHTTPServer | None = None

    def expect(self, name: str, content_type: str) -> str:
        """Return the address that takes one file."""
        if self._server is None:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        file_id = str(uuid.uuid4())
        self._expected[f"/{file_id}"] = (name, content_type)
        return f"http://127.0.0.1:{self._server.server_address[1]}/{file_id}"

    def close(self) -> None:
        """Stop the server; idempotent."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        storage = self

        class Upload(BaseHTTPRequestHandler):
            """Takes one file per address."""

            def do_POST(self) -> None:
                """Store the body under the id its address carries."""
                content = self.rfile.read(int(self.headers["Content-Length"]))
                expected = storage._expected.pop(self.path, None)
                self.send_response(201 if expected else 404)
                self.end_headers()
                if expected is None:
                    return
                file_id = self.path[1:]
                storage.files[file_id] = (*expected, content)
                answer = {"file_id": file_id, "name": expected[0], "size": len(content)}
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        return Upload
