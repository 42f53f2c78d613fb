"""Slack's Web API on loopback: checks what it is sent, signs what people do.

Whatever breaks the API's rules is answered as Slack does and noted in ``complaints``.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode

TOKEN = "xoxb-slack-bot-token"
SIGNING_SECRET = "slack-signing-secret"
BOT_USER = "UBOT"
LIMIT = 4000


@dataclass
class Failure:
    """A scripted answer."""

    status: int = 500
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What Slack sends to our webhook."""

    body: bytes
    headers: dict[str, str]


@dataclass
class FakeSlack:
    """State and switches. ``failures`` are used up before messages are taken."""

    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    responses: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    failures: deque[Failure] = field(default_factory=deque)
    files: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    files_at: str | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def api(self) -> str:
        """Base URL of the Web API."""
        return f"{self.url}/api"

    @property
    def hooks(self) -> str:
        """What response URLs begin with."""
        return f"{self.url}/hooks/"

    # --- what the bot does -------------------------------------------------------------------

    def answer(self, method: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        if token != f"Bearer {TOKEN}":
            return {"ok": False, "error": "invalid_auth"}
        self.calls.append((method, body))
        if method == "auth.test":
            me = {"user_id": BOT_USER, "user": "deskbot", "team_id": "T1", "team": "Acme"}
            return {"ok": True, **me}
        if method == "files.info":
            name, kind, _ = self.files[body["file"]]
            at = self.files_at or f"{self.url}/files/{body['file']}"
            return {"ok": True, "file": {"name": name, "mimetype": kind, "url_private": at}}
        problem = self._problem(body) if method == "chat.postMessage" else "unknown_method"
        if problem is not None:
            self.complaints.append(f"{method}: {problem}")
            return {"ok": False, "error": problem}
        return {"ok": True, "ts": "1700000000.0002", "channel": body["channel"]}

    def respond(self, url: str, body: dict[str, Any]) -> None:
        problem = self._problem({"channel": "C", **body})
        if problem is not None or body.get("response_type") != "ephemeral":
            self.complaints.append(f"response: {problem}")
        self.responses.append((url, body))

    def _problem(self, body: dict[str, Any]) -> str | None:
        if re.fullmatch(r"[CDG][A-Z0-9]*", body.get("channel", "")) is None:
            return "channel_not_found"
        if re.fullmatch(r"\d+\.\d+", body.get("thread_ts", "1.1")) is None:
            return "invalid_thread_ts"
        text = body.get("text", "")
        if not text.strip():
            return "no_text"
        if len(text) > LIMIT or re.search(r"&(?!amp;|lt;|gt;)|[<>]", text):
            return "msg_too_long_or_not_escaped"
        for block in body.get("blocks", []):
            problem = _block_problem(block)
            if problem is not None:
                return problem
        return None

    # --- what people do ----------------------------------------------------------------------

    def event(self, text: str, *, sender: str = "UANN", **more: Any) -> Request:
        """Return a direct message; ``more`` changes the event."""
        number = next(self._numbers)
        event = {
            "type": "message",
            "channel_type": "im",
            "user": sender,
            "text": text,
            "channel": f"D{sender}",
            "ts": f"1700000000.{number:04d}",
            **more,
        }
        body = {"type": "event_callback", "event_id": f"Ev{number}", "team_id": "T1"}
        return self.signed(json.dumps({**body, "event": event}).encode(), "application/json")

    def command(self, command: str, text: str, *, sender: str = "UANN") -> Request:
        """Return a slash command."""
        number = next(self._numbers)
        form = {
            "command": command,
            "text": text,
            "user_id": sender,
            "channel_id": f"D{sender}",
            "trigger_id": f"trigger{number}",
            "response_url": f"{self.hooks}{number}",
        }
        return self.form(form)

    def press(self, value: str, *, sender: str = "UANN", **more: Any) -> Request:
        """Return the press of a button."""
        number = next(self._numbers)
        payload = {
            "type": "block_actions",
            "user": {"id": sender},
            "channel": {"id": f"D{sender}"},
            "message": {"ts": "1700000000.0001"},
            "actions": [{"action_id": "b0", "value": value}],
            "trigger_id": f"trigger{number}",
            "response_url": f"{self.hooks}{number}",
            **more,
        }
        return self.form({"payload": json.dumps(payload)})

    def form(self, form: dict[str, str]) -> Request:
        """Return a signed form."""
        return self.signed(urlencode(form).encode(), "application/x-www-form-urlencoded")

    def signed(self, body: bytes, kind: str, *, age_s: int = 0) -> Request:
        """Sign a body as Slack does."""
        stamp = str(int(time.time()) - age_s)
        base = f"v0:{stamp}:".encode() + body
        digest = hmac.new(SIGNING_SECRET.encode(), base, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={digest}",
        }
        return Request(body, headers)

    # --- what tests look at ------------------------------------------------------------------

    def sent(self, channel: str | None = None) -> list[dict[str, Any]]:
        """Return the messages that were posted; into one conversation or all."""
        found = [body for method, body in list(self.calls) if method == "chat.postMessage"]
        return [body for body in found if channel in {None, body["channel"]}]


def _block_problem(block: dict[str, Any]) -> str | None:
    if block["type"] == "section":
        return None if 1 <= len(block["text"]["text"]) <= 3000 else "invalid_blocks"
    ids = [element["action_id"] for element in block["elements"]]
    good = all(
        e["type"] == "button" and 1 <= len(e["text"]["text"]) <= 75 and 1 <= len(e["value"]) <= 2000
        for e in block["elements"]
    )
    return None if good and len(set(ids)) == len(ids) <= 25 else "invalid_blocks"


@contextmanager
def running_slack() -> Iterator[FakeSlack]:
    """Serve the Web API on a free loopback port."""
    fake = FakeSlack()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            kind = self.headers["Content-Type"].partition(";")[0]
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            is_form = kind == "application/x-www-form-urlencoded"
            body = dict(parse_qsl(raw.decode())) if is_form else json.loads(raw)
            if self.path.startswith("/hooks/"):
                fake.respond(self.path, body)
                self.reply(200, b"ok")
                return
            method = self.path.removeprefix("/api/")
            if method == "chat.postMessage" and fake.failures:
                failure = fake.failures.popleft()
                value = {"ok": False, "error": failure.error or "internal_error"}
                self.reply(failure.status, json.dumps(value).encode(), failure.headers)
                return
            # Methods that only read take no JSON.
            if method == "files.info" and not is_form:
                self.reply(200, b'{"ok": false, "error": "invalid_arguments"}')
                return
            answer = fake.answer(method, self.headers.get("Authorization", ""), body)
            self.reply(200, json.dumps(answer).encode())

        def do_GET(self) -> None:
            found = fake.files.get(self.path.removeprefix("/files/"))
            if found is None or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.reply(403, b"")
                return
            self.reply(200, found[2])

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
