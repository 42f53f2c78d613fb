"""A scripted host: runs an app process and speaks the host's side of its protocol."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from workers_runtime.javascript import find_javascript
from workers_runtime.protocol import APP_MESSAGES

SDK = Path(__file__).parents[2] / "workers_runtime" / "sdk"
APPS = Path(__file__).parents[1] / "contract" / "sdk_apps"
START = "c0"
ANA = {"userId": "0d9e4a52-0000-4000-8000-000000000001", "email": "ana@acme.test"}
SUFFIX = {"python": "py", "js": "mjs"}
PATH = os.pathsep.join(os.get_exec_path())
WAIT_S = 15.0

Message = dict[str, Any]


def command(language: str, entry: str) -> list[str]:
    """Return the command line the runtime uses for an entry point."""
    if language == "python":
        return [sys.executable, "-P", "-m", "trellis_worker.run", entry]
    runtime = find_javascript(PATH)
    assert runtime is not None, "the tests need Node or Bun"
    return runtime.command(entry)


class Host:
    """One app process and what it has said so far."""

    def __init__(
        self,
        language: str,
        folder: Path,
        entry: str,
        env: dict[str, str],
        **options: Any,
    ) -> None:
        self.language = language
        self.messages: list[Message] = []
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._new: queue.Queue[Message | None] = queue.Queue()
        self._calls = 0
        self.process = subprocess.Popen(
            command(language, entry),
            cwd=folder,
            env={"PATH": PATH, "PYTHONPATH": str(SDK / "python"), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self._threads = [
            threading.Thread(target=read, daemon=True)
            for read in (self._read_stdout, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()

    # --- what the process says ---

    def _read_stdout(self) -> None:
        assert self.process.stdout
        for raw in self.process.stdout:
            line = raw.decode().rstrip("\r\n")
            message = _parse(line)
            if message is not None:
                self._new.put({**message, "_line_bytes": len(raw)})
            elif line:
                self.stdout.append(line)
        self._new.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        for raw in self.process.stderr:
            self.stderr.append(raw.decode().rstrip("\n"))

    def expect(self, kind: str, timeout_s: float = WAIT_S, **fields: Any) -> Message:
        """Return the first message, not yet taken, of a type and with these fields."""
        return self.expect_that(
            lambda m: m["type"] == kind and all(m.get(k) == v for k, v in fields.items()),
            f"{kind} {fields}",
            timeout_s,
        )

    def expect_that(
        self, matches: Callable[[Message], bool], what: str, timeout_s: float = WAIT_S
    ) -> Message:
        """Return the first message, not yet taken, that matches."""
        for index, message in enumerate(self.messages):
            if matches(message):
                return self.messages.pop(index)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                message = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {what}; {self.story()}") from None
            if message is None:
                self._new.put(None)
                raise AssertionError(f"process ended without {what}; {self.story()}")
            if matches(message):
                return message
            self.messages.append(message)

    def log_line(self, text: str, level: str | None = None) -> Message:
        """Return the first log line with this text in it, of this level."""
        return self.expect_that(
            lambda m: (
                m["type"] == "log" and text in m["message"] and level in (None, m.get("level"))
            ),
            f"log line {text!r} of level {level}",
        )

    def silent(self, kind: str, for_s: float = 0.3) -> None:
        """Check that no message of a type comes within a time."""
        try:
            message = self.expect(kind, for_s)
        except AssertionError:
            return
        raise AssertionError(f"unexpected {message}")

    def story(self) -> str:
        """Describe what happened, for a failed check."""
        shown = [str(m)[:300] for m in self.messages]
        return f"messages {shown}, stdout {self.stdout}, stderr {self.stderr}"

    # --- what the host says ---

    def send(self, message: Message | bytes) -> None:
        """Write one message, or raw bytes."""
        assert self.process.stdin
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def discover(self, **fields: Any) -> Message:
        """Start the conversation; return the process's handshake."""
        self.send_discover(**fields)
        return self.expect("discover")

    def send_discover(self, **fields: Any) -> None:
        """Send `discover` and wait for nothing."""
        base = {"type": "discover", "call": START, "app_id": "crm", "run_onstart": True}
        self.send({**base, "runtime_url": "http://127.0.0.1:9", "deployment_id": "d1", **fields})

    def ready(self, **fields: Any) -> Host:
        """Complete the handshake, `on_start` included."""
        self.discover(**fields)
        self.expect("started")
        return self

    def begin(self, method: str, params: Any = None, caller: Message | None = None) -> str:
        """Send an RPC; return its id. Its call token is ``t-ID``."""
        self._calls += 1
        key = f"r{self._calls}"
        message = {"type": "rpc", "call": f"t-{key}", "id": key, "method": method}
        self.send({**message, "params": params, "caller": caller})
        return key

    def answer(self, key: str) -> Message:
        """Return the answer to an RPC."""
        return self.expect("rpc_response", id=key)

    def rpc(self, method: str, params: Any = None, caller: Message | None = None) -> Any:
        """Call a method; return its result."""
        answer = self.answer(self.begin(method, params, caller))
        assert "error" not in answer, f"{answer}; {self.story()}"
        return answer.get("result")

    def rpc_error(self, method: str, params: Any = None) -> str:
        """Call a method that must fail; return the error text."""
        answer = self.answer(self.begin(method, params))
        assert answer.get("error"), f"{str(answer)[:500]}; {self.story()}"
        return answer["error"]

    def job(self, payload: Any, key: str = "42", caller: Message | None = None) -> Message:
        """Deliver a job; return its result message."""
        self.send_job(payload, key, caller)
        return self.expect("job_result", id=key)

    def send_job(self, payload: Any, key: str = "42", caller: Message | None = None) -> None:
        """Deliver a job and wait for nothing."""
        meta = {"read_ct": 2, "enqueued_at": "2025-03-01T08:00:00Z", "source": "api"}
        message = {"type": "job", "call": f"t-{key}", "id": key, "payload": payload}
        self.send({**message, "caller": caller, "meta": meta})

    def reply(self, operation: Message, kind: str, **fields: Any) -> None:
        """Answer an operation."""
        self.send({"type": kind, "id": operation["id"], **fields})

    def shutdown(self) -> int:
        """Ask the process to end; return its exit code."""
        self.send({"type": "shutdown"})
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            try:
                stream.close()
            except BrokenPipeError:
                continue


def _parse(line: str) -> Message | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    known = isinstance(message, dict) and message.get("type") in APP_MESSAGES
    return message if known else None


Starter = Callable[..., Host]
"""Starts an app from its (Python, JavaScript) sources; keywords are its environment."""


class storage:  # noqa: N801  # used like a function
    """A place that takes one upload: (URL, received bodies).

    Args:
        status: what it answers; 404 refuses the upload.
    """

    def __init__(self, status: int = 201) -> None:
        self.status = status

    def __enter__(self) -> tuple[str, list[bytes]]:
        received: list[bytes] = []
        status = self.status

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                body = b'{"file_id":"f1"}' if status == 201 else b'{"error":"no such upload"}'
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}/upload", received

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
