"""What node, runtime and platform share: specs, states, failures and app-process messages.

Messages of app processes are plain objects, as in contract part 30, 4.2 and 4.3; this module
knows their names and how they are answered. The messages between node and runtime are in
``node_protocol``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

APP_PROTOCOL_VERSION = 2
"""Newest version of the messages between runtime and app process that we know."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Longest line from or to an app process."""

MAX_MESSAGE_CHARS = 8192
"""Longest log message."""

MAX_DEPTH = 200
"""Most arrays and objects in each other. Python's ``json`` stops at some 900, at how many depends on
who calls it; what one process can read the next one must be able to write."""

MAX_ERROR_CHARS = 4000
"""Longest error text of a call."""

JSON = Any
"""Any JSON value: None, bool, number, text, list or object."""

JSONObject = dict[str, Any]  # Any: JSON values
"""A JSON object."""


class CallKind(StrEnum):
    """What a call asks an app process to do; the value is the message type."""

    START = "start"
    RPC = "rpc"
    JOB = "job"
    AGENT = "agent_invoke"


class AppStatus(StrEnum):
    """State of an app on a node (contract part 30, 3.3)."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    CRASHED = "crashed"


class FailureKind(StrEnum):
    """How a command or a call failed. The comment names the contract's HTTP status."""

    HANDLER = "handler"  # 500, the handler's text
    UNKNOWN_METHOD = "unknown_method"  # 500 `unknown method: X`
    TOO_LARGE = "too_large"  # 500 `result too large`
    CRASHED = "crashed"  # 500 `worker crashed`
    STOPPED = "stopped"  # 503 `worker stopped`
    UNRESPONSIVE = "unresponsive"  # 503 `worker unresponsive`
    CAPACITY = "capacity"  # 503 `worker capacity exhausted`
    TIMEOUT = "timeout"  # 500 `rpc timeout: no answer within 30 s`; the process had the call
    NOT_READY = "not_ready"  # 503 `worker for app 'X' is not ready`; no process took the call
    NOT_RUNNING = "not_running"  # 503 `worker for app 'X' is not running`; crashed and cooling
    UNKNOWN_APP = "unknown_app"  # the runtime has no (new enough) spec: `ensure` and call again
    START_FAILED = "start_failed"  # 500 `worker did not start: ...`
    INSTALL_FAILED = "install_failed"  # 500 `dependency install failed: ...`
    BAD_ARCHIVE = "bad_archive"  # 400, text of contract part 30, section 2
    ENDED = "ended"  # the node ended the call itself, with its own text
    RUNTIME = "runtime"  # 500, a fault of ours; the text says which


class WorkerFailure(Exception):
    """A command or call that failed.

    Attributes:
        kind: which failure, for the HTTP status.
        message: text for the caller, at most 4000 characters.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message[:MAX_ERROR_CHARS]

    def __reduce__(self) -> tuple[type[WorkerFailure], tuple[FailureKind, str]]:
        return type(self), (self.kind, self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """What the node asks its runtime to run for one app.

    Attributes:
        sha256: hex digest of the archive, names the unpacked bundle.
        runtime: ``python`` or ``js``.
        generation: ``app_workers.generation``; a higher one replaces the running process.
        credentials: platform and app secrets, given to the process at spawn and never logged.
        archive: path of the archive, or empty: the runtime asks for it if it lacks the bundle.
        home: keep a process alive without calls.
        limits: ``limits`` of the host's ``discover``; empty = the runtime's own.
    """

    app_id: str
    deployment_id: str
    sha256: str
    entry_point: str
    runtime: str = "python"
    generation: int = 0
    runtime_url: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    manifest: JSONObject | None = field(default=None, repr=False)
    agent_config: JSONObject | None = field(default=None, repr=False)
    limits: JSONObject = field(default_factory=dict)
    archive: str = ""
    home: bool = False

    def same_process(self, other: AppSpec) -> bool:
        """Say whether a process started for the other spec serves this one."""
        return (self.deployment_id, self.generation) == (other.deployment_id, other.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """Result of an ``ensure``: the process that now serves the app.

    Attributes:
        protocol: 1 = plain script, 2 = SDK.
        capabilities: e.g. ``agent``: this worker runs the agent loop itself.
        started_at: Unix time.
    """

    app_id: str
    deployment_id: str
    generation: int
    pid: int
    protocol: int = 1
    methods: list[str] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    started_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of an app's log (contract part 30, section 8).

    Attributes:
        level: debug, info, warn, error, stdout, stderr, system or event.
        message: at most 8192 characters.
        ts: Unix time of arrival.
        pid: process that wrote it, 0 for the platform's own lines.
    """

    app_id: str
    level: str
    message: str
    ts: float
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """State of one app on a node, sent at every change. Times are Unix times.

    Attributes:
        in_flight: calls the app's processes work on.
        processes: live processes, draining and staged ones included.
        sandbox: protections of its process that are on; empty without one.
    """

    TYPE: ClassVar[str] = "state"
    app_id: str
    status: AppStatus
    deployment_id: str = ""
    generation: int = 0
    pid: int | None = None
    restarts: int = 0
    started_at: float | None = None
    last_crash_at: float | None = None
    last_error: str | None = None
    home: bool = False
    in_flight: int = 0
    processes: int = 0
    capabilities: list[str] = field(default_factory=list)
    sandbox: list[str] = field(default_factory=list)


# --- messages of app processes ---------------------------------------------------------------

OPERATION_RESULTS: Mapping[str, str] = {
    "collection_op": "collection_op_result",
    "sql_query": "sql_query_result",
    "sql_begin": "sql_begin_result",
    "sql_exec": "sql_exec_result",
    "sql_commit": "sql_end_result",
    "sql_rollback": "sql_end_result",
    "self_action": "self_action_result",
    "storage_upload": "storage_upload_url",
    "job_enqueue": "job_enqueue_result",
    "job_extend": "job_extend_result",
    "job_progress": "job_progress_result",
}
"""Operation -> type of its answer; both carry the operation's ``id``."""

AGENT_OPERATIONS = frozenset({"agent_chunk", "agent_tool_call", "agent_session_compacted"})
"""Messages of a running agent; only ``agent_tool_call`` is answered."""

ANSWERS = frozenset({"rpc_response", "job_result", "agent_done", "agent_error"})
"""Messages that end a call."""

APP_MESSAGES = frozenset(
    {"discover", "started", "log", "event", *ANSWERS, *OPERATION_RESULTS, *AGENT_OPERATIONS}
)
"""Every type an app process may send; any other line of it is log output."""


def nested_too_deeply(raw: bytes, value: JSON) -> bool:
    """Say whether a value, read from these bytes, has more than ``MAX_DEPTH`` levels."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, list | dict)]
        if not level:
            return False
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return True


def operation_answer(operation: JSONObject, body: JSONObject) -> JSONObject | None:
    """Build the host's answer to an operation of an app process.

    Args:
        operation: the process's message.
        body: fields of the answer, e.g. ``{"result": ...}`` or ``{"error": "..."}``.

    Returns:
        The message for the process, or None when that operation has no answer.
    """
    kind = operation.get("type")
    if kind == "agent_tool_call":
        ids = {"invoke_id": operation.get("invoke_id"), "call_id": operation.get("call_id")}
        return {**body, "type": "agent_tool_result", **ids}
    answer = OPERATION_RESULTS.get(kind) if isinstance(kind, str) else None
    if answer is None:
        return None
    return {**body, "type": answer, "id": operation.get("id")}
