"""A model server on loopback that speaks the wire formats of three APIs.

The test scripts its answers; every request is recorded. It can split its event stream at awkward
places, limit the rate, stall, die in the middle and answer without streaming.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FORMATS = {
    "/v1/messages": "anthropic",
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
}


@dataclass
class Call:
    """A tool call the model asks for; ``arguments`` may be text that is no JSON."""

    name: str
    arguments: Any = field(default_factory=dict)
    id: str = ""

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass
class Answer:
    """One scripted answer.

    Attributes:
        text: pieces of text, one delta each.
        usage: (input, output) tokens; None = the server says nothing.
        stop: finish reason in the words of OpenAI Chat; None = by content.
        status: another status answers an error at once, with ``headers``.
        whole: answer one JSON body though a stream was asked for.
        split: cut the stream into TCP writes of this many bytes; 0 = one write per event.
        die_after: close the connection after this many events.
        stall_s: wait this long before the first byte; ``pause_s`` between events.
        hold: wait before the first event until this is set.
    """

    text: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    usage: tuple[int, int] | None = (10, 5)
    stop: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str = "scripted error"
    whole: bool = False
    split: int = 0
    die_after: int | None = None
    stall_s: float = 0.0
    pause_s: float = 0.0
    hold: threading.Event | None = None

    @property
    def finish(self) -> str:
        return self.stop or ("tool_calls" if self.calls else "stop")


@dataclass
class Seen:
    """One request the server got."""

    format: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str | None:
        """The key in whatever header it came."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or bearer or None


Script = Callable[[Seen], Answer]


class ModelServer:
    """The server; ``answers`` are given in order, then ``script`` decides."""

    def __init__(self, *, expected_key: str | None = None) -> None:
        self.answers: deque[Answer] = deque()
        self.script: Script | None = None
        self.requests: list[Seen] = []
        self.expected_key = expected_key
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def root(self) -> str:
        """Base URL for the Anthropic format."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def v1(self) -> str:
        """Base URL for the OpenAI formats."""
        return f"{self.root}/v1"

    def say(self, *text: str, **options: Any) -> None:
        """Script an answer of text."""
        self.answers.append(Answer(text=list(text), **options))

    def call(self, *calls: Call, text: list[str] | None = None, **options: Any) -> None:
        """Script an answer that asks for tools."""
        self.answers.append(Answer(text=text or [], calls=list(calls), **options))

    def next(self, seen: Seen) -> Answer:
        with self.lock:
            self.requests.append(seen)
            if self.answers:
                return self.answers.popleft()
        if self.script is not None:
            return self.script(seen)
        return Answer(status=500, error="the script has no further answer")

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are part of the tests."""


@contextlib.contextmanager
def model_server(*, expected_key: str | None = None) -> Iterator[ModelServer]:
    """Run a server until the end of the block."""
    server = ModelServer(expected_key=expected_key)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one small server
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: Any) -> None:
            pass

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            kind = FORMATS.get(self.path)
            if kind is None:
                return self._json(404, {"error": {"message": f"no such path {self.path}"}})
            headers = {k.lower(): v for k, v in self.headers.items()}
            seen = Seen(kind, self.path, headers, json.loads(raw))
            if server.expected_key is not None and seen.key != server.expected_key:
                # Real providers echo part of the key; a good client does not pass that on.
                return self._json(401, {"error": {"message": f"bad key {seen.key}"}})
            answer = server.next(seen)
            if answer.stall_s:
                time.sleep(answer.stall_s)
            if answer.hold is not None:
                answer.hold.wait(110)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._answer(kind, seen, answer)
            return None

        def _answer(self, kind: str, seen: Seen, answer: Answer) -> None:
            if answer.status != 200:
                error = {"type": "error", "error": {"type": "x", "message": answer.error}}
                return self._json(answer.status, error, answer.headers)
            if answer.whole or not seen.body.get("stream"):
                return self._json(200, WHOLE[kind](answer), answer.headers)
            return self._stream(EVENTS[kind](answer), answer)

        def _stream(self, events: list[str], answer: Answer) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, event in enumerate(events):
                if answer.die_after is not None and number >= answer.die_after:
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                    return
                self._write(event.encode(), answer.split)
                if answer.pause_s:
                    time.sleep(answer.pause_s)
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

        def _write(self, data: bytes, split: int) -> None:
            size = split or len(data)
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()

        def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    return Handler


def _sse(data: Any, name: str | None = None) -> str:
    head = f"event: {name}\n" if name else ""
    body = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    if any("\ud800" <= char <= "\udfff" for char in body):
        body = json.dumps(data)
    return f"{head}data: {body}\n\n"


def _halves(text: str) -> list[str]:
    middle = max(1, len(text) // 2)
    return [part for part in (text[:middle], text[middle:]) if part]


# --- Anthropic Messages ----------------------------------------------------------------------

ANTHROPIC_STOPS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}


def _anthropic_events(answer: Answer) -> list[str]:
    usage = {"input_tokens": answer.usage[0], "output_tokens": 1} if answer.usage else {}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}
    events = [_named({"type": "message_start", "message": message}), _named({"type": "ping"})]
    index = 0
    if answer.text:
        block = {"type": "text", "text": ""}
        events.append(_named(_block_start(index, block)))
        for piece in answer.text:
            delta = {"type": "text_delta", "text": piece}
            events.append(_named(_block_delta(index, delta)))
        events.append(_named({"type": "content_block_stop", "index": index}))
        index += 1
    for number, call in enumerate(answer.calls):
        block = {
            "type": "tool_use",
            "id": call.id or f"toolu_{number}",
            "name": call.name,
            "input": {},
        }
        events.append(_named(_block_start(index, block)))
        for part in _halves(call.text):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append(_named(_block_delta(index, delta)))
        events.append(_named({"type": "content_block_stop", "index": index}))
        index += 1
    final: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": ANTHROPIC_STOPS[answer.finish], "stop_sequence": None},
    }
    if answer.usage:
        final["usage"] = {"output_tokens": answer.usage[1]}
    return [*events, _named(final), _named({"type": "message_stop"})]


def _named(data: dict[str, Any]) -> str:
    return _sse(data, data["type"])


def _block_start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _block_delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _anthropic_whole(answer: Answer) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if answer.text:
        content.append({"type": "text", "text": "".join(answer.text)})
    for number, call in enumerate(answer.calls):
        content.append(
            {
                "type": "tool_use",
                "id": call.id or f"toolu_{number}",
                "name": call.name,
                "input": call.arguments,
            }
        )
    body: dict[str, Any] = {
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": ANTHROPIC_STOPS[answer.finish],
    }
    if answer.usage:
        body["usage"] = {"input_tokens": answer.usage[0], "output_tokens": answer.usage[1]}
    return body


# --- OpenAI Chat Completions -----------------------------------------------------------------


def _chat_events(answer: Answer) -> list[str]:
    events = [_sse(_chat_chunk({"role": "assistant", "content": ""}))]
    events += [_sse(_chat_chunk({"content": piece})) for piece in answer.text]
    for number, call in enumerate(answer.calls):
        head = {
            "index": number,
            "id": call.id or f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        events.append(_sse(_chat_chunk({"tool_calls": [head]})))
        for part in _halves(call.text):
            piece = {"index": number, "function": {"arguments": part}}
            events.append(_sse(_chat_chunk({"tool_calls": [piece]})))
    events.append(_sse(_chat_chunk({}, answer.finish)))
    if answer.usage:
        events.append(_sse({**_chat_chunk({}), "choices": [], "usage": _chat_usage(answer)}))
    return [*events, _sse("[DONE]")]


def _chat_chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl_1",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def _chat_usage(answer: Answer) -> dict[str, int]:
    given, made = answer.usage or (0, 0)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _chat_whole(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.text) or None}
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.text},
            }
            for number, call in enumerate(answer.calls)
        ]
    body: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
    }
    if answer.usage:
        body["usage"] = _chat_usage(answer)
    return body


# --- OpenAI Responses ------------------------------------------------------------------------


def _responses_events(answer: Answer) -> list[str]:
    body = _responses_whole(answer)
    created = {"type": "response.created", "response": {**body, "output": []}}
    events = [_named(created)]
    for piece in answer.text:
        data = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0}
        events.append(_named({**data, "content_index": 0, "delta": piece}))
    for number, call in enumerate(answer.calls):
        for part in _halves(call.text):
            data = {"type": "response.function_call_arguments.delta", "item_id": f"fc_{number}"}
            events.append(_named({**data, "output_index": number, "delta": part}))
    name = "response.incomplete" if body["status"] == "incomplete" else "response.completed"
    return [*events, _named({"type": name, "response": body})]


def _responses_whole(answer: Answer) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if answer.text:
        part = {"type": "output_text", "text": "".join(answer.text), "annotations": []}
        output.append({"type": "message", "id": "m", "role": "assistant", "content": [part]})
    for number, call in enumerate(answer.calls):
        output.append(
            {
                "type": "function_call",
                "id": f"fc_{number}",
                "call_id": call.id or f"call_{number}",
                "name": call.name,
                "arguments": call.text,
            }
        )
    body: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed"}
    if answer.finish in {"length", "content_filter"}:
        reason = "max_output_tokens" if answer.finish == "length" else "content_filter"
        body.update(status="incomplete", incomplete_details={"reason": reason})
    if answer.usage:
        given, made = answer.usage
        body["usage"] = {
            "input_tokens": given,
            "output_tokens": made,
            "total_tokens": given + made,
        }
    return {**body, "output": output}


EVENTS: dict[str, Callable[[Answer], list[str]]] = {
    "anthropic": _anthropic_events,
    "chat": _chat_events,
    "responses": _responses_events,
}
WHOLE: dict[str, Callable[[Answer], dict[str, Any]]] = {
    "anthropic": _anthropic_whole,
    "chat": _chat_whole,
    "responses": _responses_whole,
}
