"""Messages between a node and its runtime: one JSON object a line over a private Unix socket.

``seq`` numbers a command of the node and its answer, ``op`` an operation of an app process and
its answer. Both ends come from one installation, so there is one version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import ClassVar

from workers_runtime.protocol import (
    JSON,
    AppSpec,
    AppState,
    AppStatus,
    CallKind,
    Handshake,
    JSONObject,
)

NODE_PROTOCOL_VERSION = 1
"""Version of these messages."""

MAX_NODE_LINE_BYTES = 32 * 1024 * 1024
"""Longest line between node and runtime: one of an app process, wrapped and escaped anew."""


class ProtocolError(ValueError):
    """A line is not a message of ours."""


# --- node -> runtime -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensure:
    """Have a process of this spec running; idempotent.

    A new deployment or generation starts beside the old process and takes over after its
    handshake. ``staged`` stops before the takeover; the same spec unstaged then promotes it.
    ``clear`` forgets crashes (start, deploy): then a failing first start is not retried.
    """

    TYPE: ClassVar[str] = "ensure"
    seq: int
    spec: AppSpec
    staged: bool = False
    clear: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Hand one call to a process of the app, starting one if needed.

    Attributes:
        call: the call's token, 128 random bits in hex.
        message: fields of contract part 30, 4.2 without ``type`` and ``call``.
        deadline: Unix time; None = no limit (jobs, agent runs).
        generation: lowest generation that may serve it.
    """

    TYPE: ClassVar[str] = "call"
    seq: int
    app_id: str
    kind: CallKind
    call: str
    message: JSONObject
    deadline: float | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndCall:
    """End an open call now; it fails with kind ``ended`` and this text."""

    TYPE: ClassVar[str] = "end_call"
    call: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationReply:
    """Answer an operation; ``body`` holds the answer's own fields, or ``error``."""

    TYPE: ClassVar[str] = "operation_reply"
    op: int
    body: JSONObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Answer ``NeedArchive``: the path of a readable file, or why there is none."""

    TYPE: ClassVar[str] = "archive"
    seq: int
    path: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop an app (or all, with an empty id) and forget its spec; answered when all are gone."""

    TYPE: ClassVar[str] = "stop"
    seq: int
    app_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """Stop a staged process of the app that was not promoted."""

    TYPE: ClassVar[str] = "discard"
    seq: int
    app_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStatus:
    """Ask for every app's state."""

    TYPE: ClassVar[str] = "get_status"
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Stop all apps in order, answer, and end the runtime."""

    TYPE: ClassVar[str] = "shutdown"
    seq: int


# --- runtime -> node -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """First message of a runtime: what it is and what its sandbox does.

    Attributes:
        sandbox: protections in force, e.g. ``uid``, ``no-new-privs``, ``rlimits``.
        javascript: a JavaScript runtime is available.
    """

    TYPE: ClassVar[str] = "welcome"
    protocol: int
    pid: int
    python: str = ""
    javascript: bool = False
    sandbox: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """End of a command: ``result``, or ``failure`` with its text in ``error``."""

    TYPE: ClassVar[str] = "done"
    seq: int
    result: JSON = None
    failure: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An app process asks its host for something on behalf of one open call.

    Attributes:
        call: token of the call; for ``kind`` start it was made by the runtime.
        message: the process's message (contract part 30, 4.3).
    """

    TYPE: ClassVar[str] = "operation"
    op: int
    app_id: str
    deployment_id: str
    pid: int
    call: str
    kind: CallKind
    message: JSONObject


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A start call ended; other calls end with their ``Done``."""

    TYPE: ClassVar[str] = "call_ended"
    app_id: str
    call: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """A batch of log lines; each entry is [app_id, level, message, ts, pid]."""

    TYPE: ClassVar[str] = "logs"
    entries: list[list[JSON]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedArchive:
    """Ask the node for a deployment's archive; answered by ``Archive``."""

    TYPE: ClassVar[str] = "need_archive"
    seq: int
    app_id: str
    deployment_id: str
    sha256: str


Message = (
    Ensure
    | Call
    | EndCall
    | OperationReply
    | Archive
    | Stop
    | Discard
    | GetStatus
    | Shutdown
    | Welcome
    | Done
    | Operation
    | CallEnded
    | Logs
    | AppState
    | NeedArchive
)
"""Any message between node and runtime."""

_CLASSES: dict[str, type[Message]] = {cls.TYPE: cls for cls in Message.__args__}
_FIELDS: dict[type[object], tuple[str, ...]] = {
    cls: tuple(f.name for f in fields(cls)) for cls in (*_CLASSES.values(), AppSpec, Handshake)
}
_CONVERT: dict[str, dict[str, type[StrEnum]]] = {
    Call.TYPE: {"kind": CallKind},
    Operation.TYPE: {"kind": CallKind},
    AppState.TYPE: {"status": AppStatus},
}


def to_json(value: object) -> JSONObject:
    """Return a message, spec or handshake as a JSON object; messages carry their ``type``."""
    result = {name: getattr(value, name) for name in _FIELDS[type(value)]}
    kind = getattr(value, "TYPE", None)
    if kind is not None:
        result["type"] = kind
    if isinstance(value, Ensure):
        result["spec"] = to_json(value.spec)
    elif isinstance(value, AppSpec):
        result["credentials"] = dict(value.credentials)
    return result


def from_json(data: JSONObject) -> Message:
    """Build the message of a JSON object; unknown fields are ignored.

    Raises:
        ProtocolError: the type is unknown or a required field is missing.
    """
    kind = data.get("type")
    cls = _CLASSES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ProtocolError(f"unknown message type: {kind!r}")
    values = {name: data[name] for name in _FIELDS[cls] if name in data}
    try:
        for name, enum in _CONVERT.get(cls.TYPE, {}).items():
            values[name] = enum(values[name])
        if cls is Ensure:
            values["spec"] = spec_from_json(values["spec"])
        return cls(**values)
    except (KeyError, TypeError, ValueError) as exc:
        raise ProtocolError(f"malformed message '{kind}': {type(exc).__name__}") from None


def spec_from_json(data: JSONObject) -> AppSpec:
    """Build an app spec from a JSON object."""
    return AppSpec(**{name: data[name] for name in _FIELDS[AppSpec] if name in data})


def app_state_from_json(data: JSONObject) -> AppState:
    """Build an app's state from a JSON object."""
    values = {name: data[name] for name in _FIELDS[AppState] if name in data}
    return AppState(**{**values, "status": AppStatus(values["status"])})


def handshake_from_json(data: JSONObject) -> Handshake:
    """Build a handshake from a JSON object."""
    return Handshake(**{name: data[name] for name in _FIELDS[Handshake] if name in data})


def encode(value: Message | JSONObject) -> bytes:
    """Return one message as a line of UTF-8 JSON, LF included."""
    data = value if isinstance(value, dict) else to_json(value)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    # Lone surrogates from a process's escapes cannot be encoded; they become question marks.
    return text.encode("utf-8", "replace") + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        ProtocolError: it is not a message of ours.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("a line is not JSON") from None
    if not isinstance(data, dict):
        raise ProtocolError("a line is not a JSON object")
    return from_json(data)
