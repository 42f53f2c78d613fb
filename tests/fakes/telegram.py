"""Telegram's Bot API on loopback: checks what it is sent, and plays people in chats.

Whatever breaks the API's rules is answered as Telegram does and noted in ``complaints``.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "123456:AAF-telegram-token"
USERNAME = "desk_bot"
LIMIT = 4096
UNPARSED = "can't parse entities: can't find end of the entity"
REQUIRED = {
    "getMe": set(),
    "setMyCommands": {"commands"},
    "setWebhook": {"url", "secret_token", "allowed_updates"},
    "deleteWebhook": set(),
    "sendMessage": {"chat_id", "text"},
    "sendChatAction": {"chat_id", "action"},
    "answerCallbackQuery": {"callback_query_id"},
    "getFile": {"file_id"},
}


@dataclass
class Failure:
    """A scripted answer; ``drop`` closes the connection instead."""

    status: int = 500
    description: str = "Internal Server Error"
    parameters: dict[str, Any] = field(default_factory=dict)
    drop: bool = False


@dataclass
class FakeTelegram:
    """State and switches. ``failures[method]`` are used up before a method works."""

    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    webhook: dict[str, Any] | None = None
    failures: dict[str, deque[Failure]] = field(default_factory=lambda: defaultdict(deque))
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    open_presses: set[str] = field(default_factory=set)
    lock: threading.Condition = field(default_factory=threading.Condition)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    # --- what the bot does -------------------------------------------------------------------

    def answer(self, token: str, method: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if token != TOKEN:
                return _no(401, "Unauthorized")
            self.calls.append((method, body))
            self.lock.notify_all()
            problem = self._problem(method, body)
            if problem is not None:
                if problem != UNPARSED:
                    self.complaints.append(f"{method}: {problem}")
                return _no(400, f"Bad Request: {problem}")
            if method == "setWebhook":
                self.webhook = body
            if method == "deleteWebhook":
                self.webhook = None
            return 200, {"ok": True, "result": self._result(method, body)}

    def _problem(self, method: str, body: dict[str, Any]) -> str | None:
        missing = REQUIRED.get(method, {"?"}) - set(body)
        if missing:
            return f"{sorted(missing)} missing"
        if method in {"sendMessage", "sendChatAction"} and not isinstance(body["chat_id"], int):
            return "chat not found"
        if method == "setWebhook":
            return _webhook_problem(body)
        if method == "sendMessage":
            return self._message_problem(body)
        if method == "answerCallbackQuery" and body["callback_query_id"] not in self.open_presses:
            return "query is too old and response timeout expired or query ID is invalid"
        if method == "sendChatAction" and body["action"] != "typing":
            return "wrong parameter action in request"
        return None

    def _message_problem(self, body: dict[str, Any]) -> str | None:
        text = body["text"]
        if not text.strip():
            return "message text is empty"
        if len(text.encode("utf-16-le")) // 2 > LIMIT:
            return "message is too long"
        if body.get("parse_mode") == "Markdown" and not _is_markdown(text):
            return UNPARSED
        rows = body.get("reply_markup", {}).get("inline_keyboard", [])
        if any(not 1 <= len(b["callback_data"].encode()) <= 64 for row in rows for b in row):
            return "BUTTON_DATA_INVALID"
        return None

    def _result(self, method: str, body: dict[str, Any]) -> Any:
        if method == "getMe":
            return {"id": 123456, "is_bot": True, "username": USERNAME}
        if method == "sendMessage":
            return {"message_id": next(self._numbers), "chat": {"id": body["chat_id"]}}
        if method == "getFile":
            name, _ = self.files[body["file_id"]]
            return {"file_id": body["file_id"], "file_path": f"documents/{name}"}
        self.open_presses.discard(body.get("callback_query_id", ""))
        return True

    # --- what people do ----------------------------------------------------------------------

    def message(self, text: str | None, *, sender: int = 7, **more: Any) -> dict[str, Any]:
        """Return the update of a private message."""
        number = next(self._numbers)
        given = {
            "message_id": number,
            "from": {"id": sender, "is_bot": False, "first_name": "Ann"},
            "chat": {"id": sender, "type": "private"},
            "date": 1_700_000_000,
            **({} if text is None else {"text": text}),
            **more,
        }
        return {"update_id": number, "message": given}

    def press(self, data: str, *, sender: int = 7, chat: int | None = None) -> dict[str, Any]:
        """Return the update of a pressed button."""
        number = next(self._numbers)
        self.open_presses.add(f"press{number}")
        chat_id = sender if chat is None else chat
        message = {"message_id": 1, "chat": {"id": chat_id, "type": "private"}}
        query = {
            "id": f"press{number}",
            "from": {"id": sender, "is_bot": False},
            "message": message,
            "data": data,
        }
        return {"update_id": number, "callback_query": query}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an update."""
        assert self.webhook is not None
        return {"X-Telegram-Bot-Api-Secret-Token": self.webhook["secret_token"]}

    # --- what tests look at ------------------------------------------------------------------

    def sent(self, chat: int | None = None) -> list[dict[str, Any]]:
        """Return the messages that were taken, in order; of one chat or of all."""
        with self.lock:
            found = [body for method, body in self.calls if method == "sendMessage"]
        taken = [body for body in found if self._message_problem(body) is None]
        return [body for body in taken if chat in {None, body["chat_id"]}]

    def texts(self, chat: int | None = None) -> list[str]:
        return [body["text"] for body in self.sent(chat)]

    def of(self, method: str) -> list[dict[str, Any]]:
        with self.lock:
            return [body for name, body in self.calls if name == method]


def _no(status: int, description: str) -> tuple[int, dict[str, Any]]:
    return status, {"ok": False, "error_code": status, "description": description}


def _webhook_problem(body: dict[str, Any]) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,256}", body["secret_token"]) is None:
        return "secret token contains unallowed characters"
    if body["allowed_updates"] != ["message", "callback_query"]:
        return "unexpected allowed_updates"
    if not body["url"].startswith("https://"):
        return "bad webhook: An HTTPS URL must be provided for webhook"
    return None


def _is_markdown(text: str) -> bool:
    """Tell whether the entities of Telegram's legacy Markdown are all closed."""
    text = re.sub(r"\\[_*`\[]", "", text)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    return all(text.count(char) % 2 == 0 for char in "_*`")


@contextmanager
def running_telegram() -> Iterator[FakeTelegram]:
    """Serve the Bot API on a free loopback port."""
    fake = FakeTelegram()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            token, method = self._target()
            failures = fake.failures[method]
            if failures:
                failure = failures.popleft()
                with fake.lock:
                    fake.calls.append((f"failed {method}", json.loads(raw)))
                if failure.drop:
                    self.close_connection = True
                    return
                value = _no(failure.status, failure.description)[1]
                self.reply(failure.status, {**value, "parameters": failure.parameters})
                return
            self.reply(*fake.answer(token, method, json.loads(raw)))

        def do_GET(self) -> None:
            found = re.fullmatch(r"/file/bot([^/]+)/documents/(.+)", self.path)
            data = dict(fake.files.values())
            if found is None or found[1] != TOKEN or found[2] not in data:
                self.reply(*_no(404, "Not Found"))
                return
            self.reply(200, data[found[2]])

        def _target(self) -> tuple[str, str]:
            found = re.fullmatch(r"/bot([^/]+)/(\w+)", self.path)
            return (found[1], found[2]) if found else ("", "")

        def reply(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
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
