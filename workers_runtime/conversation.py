"""What a process and its host say to each other: handshake, calls, operations, log lines.

The pipes themselves belong to ``process.AppProcess``.

Source: contract part 30, 3.2, 4.1 to 4.3.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from config.runtime import RuntimeSettings
from workers_runtime.logs import LEVELS
from workers_runtime.node_protocol import encode
from workers_runtime.opencalls import OpenCall, OpenCalls
from workers_runtime.protocol import (
    AGENT_OPERATIONS,
    ANSWERS,
    APP_MESSAGES,
    APP_PROTOCOL_VERSION,
    JSON,
    OPERATION_RESULTS,
    AppSpec,
    CallKind,
    FailureKind,
    JSONObject,
    WorkerFailure,
    nested_too_deeply,
    operation_answer,
)

MAX_OPEN_OPERATIONS = 256
TOO_DEEP = "is nested too deeply"


class ProcessListener(Protocol):
    """What a process tells its owner; every method returns at once."""

    def on_ready(self, process: Conversation) -> None:
        """Handle the handshake, or its absence (protocol 1)."""

    def on_start_ended(self, process: Conversation, call: str) -> None:
        """Handle the end of the start call."""

    def on_operation(self, process: Conversation, call: OpenCall, message: JSONObject) -> None:
        """Pass an operation on; it is answered by ``answer``."""

    def on_exit(self, process: Conversation, error: str, system_line: str) -> None:
        """Handle the end of the process, asked for or not."""

    def on_log(self, process: Conversation, level: str, message: str) -> None:
        """Take a log line."""


class Conversation(ABC):
    """The host's side of one process's protocol.

    Attributes:
        pid: 0 before the start.
        protocol: 1 until the process says otherwise.
        last_used: monotonic time of the last call's begin or end.
        ready: it shook hands, or was silent for long enough.
    """

    def __init__(self, spec: AppSpec, settings: RuntimeSettings, listener: ProcessListener) -> None:
        self.spec = spec
        self.pid = 0
        self.protocol = 1
        self.methods: list[str] = []
        self.capabilities: list[str] = []
        self.last_used = time.monotonic()
        self.ready = False
        self._settings = settings
        self._listener = listener
        self._calls = OpenCalls()
        self._operations = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    def write(self, line: bytes, on_timeout: Callable[[], None]) -> None:
        """Send a line; ``on_timeout`` is called if it cannot be written in time."""

    @abstractmethod
    def pause(self) -> None:
        """Take no messages for now."""

    @abstractmethod
    def resume(self) -> None:
        """Take messages again unless too many operations are open."""

    @property
    def saturated(self) -> bool:
        """Whether the process has too many unanswered operations."""
        return self._operations >= MAX_OPEN_OPERATIONS

    # --- handshake -------------------------------------------------------------------------

    def greet(self) -> None:
        """Send ``discover`` and open the start call."""
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
        self.write(encode(message), _ignore)
        self._later(settings.handshake_timeout_s, self._stay_silent)

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
        if not self.ready:
            text = (
                f"no handshake within {self._settings.handshake_timeout_s:.0f} s, using protocol 1"
            )
            self._listener.on_log(self, "system", text)
            self._become_ready()

    def _become_ready(self) -> None:
        self.ready = True
        self._later(self._settings.rpc_timeout_s, self._end_start)
        self._listener.on_ready(self)

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
        self.write(line, lambda: self._unresponsive(token))
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

    def is_open(self, token: str) -> bool:
        """Say whether a call is open."""
        return self._calls.get(token) is not None

    def answer(self, token: str, op: int, body: JSONObject) -> None:
        """Answer an operation, unless its call is over."""
        call = self._calls.get(token)
        operation = call.operations.pop(op, None) if call is not None else None
        if operation is not None:
            self._operation_over()
            self._write_answer(operation, body)

    def _write_answer(self, operation: JSONObject, body: JSONObject) -> None:
        answer = operation_answer(operation, body)
        if answer is None:
            return
        line = encode(answer)
        if len(line) > self._settings.max_line_bytes:
            line = encode(operation_answer(operation, {"error": "result too large"}) or {})
        self.write(line, _ignore)

    def _operation_over(self) -> None:
        self._operations -= 1
        if self._operations == MAX_OPEN_OPERATIONS // 2:
            self.resume()

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

    def take_lines(self, lines: list[bytes]) -> None:
        """Take lines of stdout: messages, and output, which becomes log entries."""
        for line in lines:
            message = _parse(line)
            if message is not None and nested_too_deeply(line, message):
                self._refuse(message)
            elif message is not None:
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

    def _refuse(self, message: JSONObject) -> None:
        """Answer what others could not read instead of passing it on."""
        kind = message["type"]
        if kind in ANSWERS:
            ids = {name: message.get(name) for name in ("id", "call", "invoke_id")}
            failed = "agent_error" if kind == "agent_done" else kind
            self._handle({**ids, "type": failed, "error": f"result {TOO_DEEP}"})
        elif kind in OPERATION_RESULTS or kind in AGENT_OPERATIONS:
            self._write_answer(message, {"error": f"{kind} {TOO_DEEP}"})
        else:
            self._listener.on_log(self, "system", f"a message of type {kind} {TOO_DEEP}")

    def _handle_agent(self, kind: str, message: JSONObject) -> None:
        if kind in AGENT_OPERATIONS:
            # A run that is over drops its messages; who waits for a tool is told so.
            self._operation(self._calls.find(CallKind.AGENT, message.get("invoke_id")), message)
        elif kind == "agent_done":
            result = {"response": message.get("response"), "tokens": message.get("tokens")}
            self._finish(CallKind.AGENT, message.get("invoke_id"), {"result": result})
        else:
            text = {"error": message.get("error") or "agent error"}
            self._finish(CallKind.AGENT, message.get("invoke_id"), text)

    def _finish(self, kind: CallKind, key: JSON, message: JSONObject) -> None:
        call = self._calls.find(kind, key, message.get("call"))
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
        if self.saturated:
            self.pause()

    def _later(self, delay_s: float, action: Callable[[], object]) -> None:
        self._timers.append(self._loop.call_later(delay_s, action))


def _ignore() -> None:
    """Do nothing when a message nobody waits for cannot be written."""


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
