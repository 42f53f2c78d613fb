"""One app process: its pipes, handshake, open calls and end.

Source: contract part 30, 3.4, 4.1 to 4.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import IO, Any, Protocol

from config.runtime import RuntimeSettings
from workers_runtime.channel import PipeReader, PipeWriter
from workers_runtime.environments import Command
from workers_runtime.logs import LEVELS
from workers_runtime.node_protocol import encode
from workers_runtime.opencalls import OpenCall, OpenCalls
from workers_runtime.protocol import (
    AGENT_OPERATIONS,
    APP_MESSAGES,
    APP_PROTOCOL_VERSION,
    JSON,
    OPERATION_RESULTS,
    AppSpec,
    CallKind,
    FailureKind,
    JSONObject,
    WorkerFailure,
    operation_answer,
)

log = logging.getLogger(__name__)

STDERR_LINES = 20
MAX_OPEN_OPERATIONS = 256
CLOSED_STDOUT_GRACE_S = 0.5


class ProcessListener(Protocol):
    """What a process tells its owner; every method returns at once."""

    def on_ready(self, process: AppProcess) -> None:
        """Handle the handshake, or its absence (protocol 1)."""

    def on_start_ended(self, process: AppProcess, call: str) -> None:
        """Handle the end of the start call."""

    def on_operation(self, process: AppProcess, call: OpenCall, message: JSONObject) -> None:
        """Pass an operation on; it is answered by ``AppProcess.answer``."""

    def on_exit(self, process: AppProcess, error: str, system_line: str) -> None:
        """Handle the end of the process, asked for or not."""

    def on_log(self, process: AppProcess, level: str, message: str) -> None:
        """Take a log line."""


class AppProcess:
    """A running process of one deployment."""

    def __init__(
        self,
        spec: AppSpec,
        settings: RuntimeSettings,
        listener: ProcessListener,
        private_folder: Path,
    ) -> None:
        self.spec = spec
        self.pid = 0
        self.protocol = 1
        self.methods: list[str] = []
        self.capabilities: list[str] = []
        self.started_at = 0.0
        self.last_used = time.monotonic()
        self.ready = False
        self.stopping = False
        self.exited = asyncio.Event()
        self._settings = settings
        self._listener = listener
        self._folder = private_folder
        self._calls = OpenCalls()
        self._operations = 0
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()
        self._child: subprocess.Popen[bytes] | None = None
        self._error = ""

    # --- start -----------------------------------------------------------------------------

    def start(self, command: Command, options: dict[str, Any]) -> None:
        """Start the process and send ``discover``.

        Args:
            command: what to run.
            options: Popen keywords of the sandbox.

        Raises:
            OSError: it could not be started.
            subprocess.SubprocessError: the sandbox could not be set up.
        """
        env = {
            **command.env,
            "HOME": str(self._folder / "home"),
            "TMPDIR": str(self._folder / "tmp"),
        }
        child = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **options,
        )
        self._child = child
        self.pid = child.pid
        self.started_at = time.time()
        self._attach(child)
        self._watch_exit(child.pid)
        self._later(self._settings.handshake_timeout_s, self._stay_silent)
        self._send_discover()

    def _attach(self, child: subprocess.Popen[bytes]) -> None:
        # The file objects would close the descriptors a second time.
        stdin, stdout, stderr = (_detach(f) for f in (child.stdin, child.stdout, child.stderr))
        limit = self._settings.max_line_bytes
        self._stdin = PipeWriter(stdin, timeout_s=self._settings.write_timeout_s)
        self._stdout = PipeReader(
            stdout,
            max_line_bytes=limit,
            on_lines=self._take_lines,
            on_discard=self._note_discarded,
            on_end=self._stdout_closed,
        )
        self._stderr_reader = PipeReader(
            stderr,
            max_line_bytes=limit,
            on_lines=self._take_stderr,
            on_discard=self._note_discarded,
            on_end=lambda: None,
        )

    def _watch_exit(self, pid: int) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd: int | None = os.pidfd_open(pid)
            self._loop.add_reader(self._pidfd, self._ended)
            return
        self._pidfd = None
        assert self._child is not None  # noqa: S101  # set by the only caller
        waiting = self._loop.run_in_executor(None, self._child.wait)
        waiting.add_done_callback(lambda _: self._ended())

    def _send_discover(self) -> None:
        spec, settings = self.spec, self._settings
        start = OpenCall(secrets.token_hex(16), CallKind.START, "start", self._loop.create_future())
        self._calls.add(start)
        limits = {
            "rpc_timeout_ms": int(settings.rpc_timeout_s * 1000),
            "call_timeout_ms": int(settings.call_timeout_s * 1000),
            "max_line_bytes": settings.max_line_bytes,
            **spec.limits,
        }
        message: JSONObject = {
            "type": "discover",
            "call": start.token,
            "app_id": spec.app_id,
            "runtime_url": spec.runtime_url,
            "run_onstart": True,
            "deployment_id": spec.deployment_id,
            "limits": limits,
        }
        optional = {
            "credentials": dict(spec.credentials),
            "manifest": spec.manifest,
            "agent_config": spec.agent_config,
        }
        message.update({name: value for name, value in optional.items() if value})
        self._stdin.write(encode(message), lambda: None)

    # --- calls -----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Number of open calls, the start call aside."""
        return self._calls.count

    @property
    def in_flight_rpcs(self) -> int:
        """Number of open RPCs."""
        return self._calls.count_of(CallKind.RPC)

    def open(self, kind: CallKind, token: str, message: JSONObject) -> asyncio.Future[JSON]:
        """Send one call.

        Returns:
            Future of the result; it fails with ``WorkerFailure``. Call ``close`` when it is no
            longer wanted.
        """
        future: asyncio.Future[JSON] = self._loop.create_future()
        name = "invoke_id" if kind is CallKind.AGENT else "id"
        key = str(message.get(name) or token)
        line = encode({**message, name: key, "type": kind.value, "call": token})
        if len(line) > self._settings.max_line_bytes:
            future.set_exception(WorkerFailure(FailureKind.TOO_LARGE, "message too large"))
            return future
        call = OpenCall(token, kind, key, future)
        if not self._calls.add(call):
            future.set_exception(WorkerFailure(FailureKind.RUNTIME, "call token in use"))
            return future
        if self.protocol == 1:
            # It never says `started`; its start call must not keep unrestricted rights.
            self._end_start()
        self.last_used = time.monotonic()
        self._stdin.write(line, lambda: self._unresponsive(token))
        return future

    def close(self, token: str, failure: WorkerFailure | None = None) -> None:
        """End a call: later operations get ``call is over``, a late answer is dropped."""
        call = self._calls.remove(token)
        if call is None:
            return
        self.last_used = time.monotonic()
        for operation in call.operations.values():
            self._operation_over()
            self._write_answer(operation, {"error": "call is over"})
        call.operations.clear()
        if failure is not None and not call.future.done():
            call.future.set_exception(failure)

    def answer(self, token: str, op: int, body: JSONObject) -> None:
        """Answer an operation, unless its call is over."""
        call = self._calls.get(token)
        operation = call.operations.pop(op, None) if call is not None else None
        if operation is not None:
            self._operation_over()
            self._write_answer(operation, body)

    def _write_answer(self, operation: JSONObject, body: JSONObject) -> None:
        answer = operation_answer(operation, body)
        if answer is None or self.exited.is_set():
            return
        line = encode(answer)
        if len(line) > self._settings.max_line_bytes:
            line = encode(operation_answer(operation, {"error": "result too large"}) or {})
        self._stdin.write(line, lambda: None)

    def _operation_over(self) -> None:
        self._operations -= 1
        if self._operations == MAX_OPEN_OPERATIONS // 2:
            self._stdout.resume()

    def _unresponsive(self, token: str) -> None:
        self.close(token, WorkerFailure(FailureKind.UNRESPONSIVE, "worker unresponsive"))

    def _end_start(self, error: str = "") -> None:
        call = self._calls.start
        if call is None:
            return
        self.close(call.token)
        if error:
            self._listener.on_log(self, "error", f"on_start failed: {error}")
        self._listener.on_start_ended(self, call.token)

    # --- messages of the process -----------------------------------------------------------

    def _take_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            message = _parse(line)
            if message is not None:
                self._handle(message)
            elif line.strip():
                self._listener.on_log(self, "stdout", line.decode("utf-8", "replace"))

    def _handle(self, message: JSONObject) -> None:
        kind = message["type"]
        if kind in {"rpc_response", "job_result"}:
            wanted = CallKind.RPC if kind == "rpc_response" else CallKind.JOB
            self._finish(wanted, message.get("id"), message)
        elif kind in OPERATION_RESULTS:
            self._operation(self._calls.named(message.get("call"), self.protocol), message)
        elif kind == "log":
            level = message.get("level")
            text = message.get("message")
            self._listener.on_log(
                self,
                level if isinstance(level, str) and level in LEVELS else "info",
                text if isinstance(text, str) else json.dumps(text),
            )
        elif kind == "event":
            data = json.dumps(message.get("data", {}), separators=(",", ":"), ensure_ascii=False)
            self._listener.on_log(self, "event", f"{message.get('name')}: {data}")
        elif kind == "discover":
            self._handshake(message)
        elif kind == "started":
            error = message.get("error")
            self._end_start(str(error) if error else "")
        else:
            self._handle_agent(kind, message)

    def _handle_agent(self, kind: str, message: JSONObject) -> None:
        if kind in AGENT_OPERATIONS:
            call = self._calls.find(CallKind.AGENT, message.get("invoke_id"))
            if call is not None:
                self._operation(call, message)
        elif kind == "agent_done":
            result = {"response": message.get("response"), "tokens": message.get("tokens")}
            self._finish(CallKind.AGENT, message.get("invoke_id"), {"result": result})
        else:
            text = {"error": message.get("error") or "agent error"}
            self._finish(CallKind.AGENT, message.get("invoke_id"), text)

    def _finish(self, kind: CallKind, key: JSON, message: JSONObject) -> None:
        call = self._calls.find(kind, key)
        if call is None:
            return
        self.close(call.token)
        if call.future.done():
            return
        error = message.get("error")
        if error is None:
            call.future.set_result(message.get("result"))
        else:
            call.future.set_exception(_handler_failure(error))

    def _operation(self, call: OpenCall | None, message: JSONObject) -> None:
        if call is None:
            self._write_answer(message, {"error": "call is over"})
            return
        self._listener.on_operation(self, call, message)

    def track(self, call: OpenCall, op: int, message: JSONObject) -> None:
        """Remember an operation until it is answered; pause the process over 256 open ones."""
        call.operations[op] = message
        self._operations += 1
        if self._operations >= MAX_OPEN_OPERATIONS:
            self._stdout.pause()

    def _handshake(self, message: JSONObject) -> None:
        if self.ready:
            return
        protocol = message.get("protocol", 1)
        self.protocol = protocol if isinstance(protocol, int) else 1
        self.methods = _texts(message.get("methods"))
        self.capabilities = _texts(message.get("capabilities"))
        if self.protocol > APP_PROTOCOL_VERSION:
            text = f"worker speaks protocol {protocol}, newer than {APP_PROTOCOL_VERSION}"
            self._listener.on_log(self, "system", text)
        self._become_ready()

    def _stay_silent(self) -> None:
        if not self.ready and not self.exited.is_set():
            text = (
                f"no handshake within {self._settings.handshake_timeout_s:.0f} s, using protocol 1"
            )
            self._listener.on_log(self, "system", text)
            self._become_ready()

    def _become_ready(self) -> None:
        self.ready = True
        self._later(self._settings.rpc_timeout_s, self._end_start)
        self._listener.on_ready(self)

    def _take_stderr(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.strip():
                self._stderr.append(text)
                self._listener.on_log(self, "stderr", text)

    def _note_discarded(self, count: int) -> None:
        for _ in range(count):
            text = f"a line over {self._settings.max_line_bytes} bytes was discarded"
            self._listener.on_log(self, "system", text)

    # --- end -------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Stop the process: ``shutdown``, grace, SIGTERM, 2 s, SIGKILL. Idempotent."""
        if not self.stopping:
            self.stopping = True
            self._stdin.write(encode({"type": "shutdown"}), lambda: None)
        for signum, wait_s in (
            (None, self._settings.stop_grace_s),
            (signal.SIGTERM, self._settings.term_grace_s),
            (signal.SIGKILL, 10.0),
        ):
            if signum is not None:
                self.signal_group(signum)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.exited.wait()
                    return
        log.error("app_process_survived_kill", extra={"pid": self.pid})

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)

    def pause(self) -> None:
        """Stop taking messages while the node is slow."""
        self._stdout.pause()

    def resume(self) -> None:
        """Take messages again."""
        if self._operations < MAX_OPEN_OPERATIONS:
            self._stdout.resume()

    def _stdout_closed(self) -> None:
        if not self.exited.is_set():
            self._later(CLOSED_STDOUT_GRACE_S, self._kill_mute)

    def _kill_mute(self) -> None:
        if not self.exited.is_set() and not self.stopping:
            self._error = "closed stdout"
            self.signal_group(signal.SIGKILL)

    def _ended(self) -> None:
        """Clean up once after the process ended."""
        assert self._child is not None  # noqa: S101  # there was a process to end
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        # What it left behind in its group goes with it. Before the reaping: until then the
        # number cannot belong to anybody else.
        self.signal_group(signal.SIGKILL)
        code = self._child.wait()
        for reader in (self._stdout, self._stderr_reader):
            reader.resume()
            reader.drain()
            reader.close()
        self._stdin.close()
        self.exited.set()
        for timer in self._timers:
            timer.cancel()
        self._fail_calls()
        self._loop.run_in_executor(None, shutil.rmtree, self._folder, True)
        number = code if code >= 0 else 128 - code
        self._listener.on_exit(self, self._exit_error(number), f"worker crashed (exit {number})")

    def _fail_calls(self) -> None:
        failure = WorkerFailure(FailureKind.CRASHED, "worker crashed")
        if self.stopping:
            failure = WorkerFailure(FailureKind.STOPPED, "worker stopped")
        self._end_start()
        for token in self._calls.tokens():
            self.close(token, failure)

    def _exit_error(self, number: int) -> str:
        text = self._error or f"exit code {number}"
        lines = "\n".join(self._stderr)
        return f"{text}: {lines}" if lines else text

    def _later(self, delay_s: float, action: Any) -> None:  # Any: a callable without arguments
        self._timers.append(self._loop.call_later(delay_s, action))


def _detach(stream: IO[bytes] | None) -> int:
    """Take a descriptor away from its file object."""
    assert stream is not None  # noqa: S101  # a pipe was asked for
    fd = os.dup(stream.fileno())
    stream.close()
    return fd


def _parse(line: bytes) -> JSONObject | None:
    """Return a message of a known type, or None for output."""
    if line.lstrip()[:1] != b"{":
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = message.get("type")
    return message if isinstance(kind, str) and kind in APP_MESSAGES else None


def _texts(value: JSON) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _handler_failure(error: JSON) -> WorkerFailure:
    text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    if text == "result too large":
        return WorkerFailure(FailureKind.TOO_LARGE, text)
    if text.startswith("unknown method: "):
        return WorkerFailure(FailureKind.UNKNOWN_METHOD, text)
    return WorkerFailure(FailureKind.HANDLER, text)
