"""What a node offers to task code, and how a call to an app process ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.core.actor import Actor
from workers_runtime.protocol import JSON, CallKind, JSONObject


class OutcomeKind(StrEnum):
    """How a call ended. The comment names the text and the HTTP status of an RPC."""

    RESULT = "result"  # 200
    HANDLER_ERROR = "handler_error"  # 500, the handler's text
    UNKNOWN_METHOD = "unknown_method"  # 500 `unknown method: X`
    TOO_LARGE = "too_large"  # 500 `result too large`
    CRASHED = "crashed"  # 500 `worker crashed`
    STOPPED = "stopped"  # 503 `worker stopped`: by a stop, a redeploy, a node's end
    UNRESPONSIVE = "unresponsive"  # 503 `worker unresponsive`
    CAPACITY = "capacity"  # 503 `worker capacity exhausted`
    TIMEOUT = "timeout"  # 500 `rpc timeout: ...`; the process had the call
    NOT_READY = "not_ready"  # 503 `worker for app 'X' is not ready`; no process took the call
    NOT_RUNNING = "not_running"  # 503 `worker for app 'X' is not running`
    START_FAILED = "start_failed"  # 500 `worker did not start: ...`
    ENDED = "ended"  # the platform ended the call, e.g. `account not available`
    ERROR = "error"  # 500, any other fault


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """End of one call.

    Attributes:
        value: the handler's result (any JSON value); None unless ``ok``.
        error: text for the caller; empty when ``ok``.
    """

    ok: bool
    value: JSON = None
    error: str = ""
    kind: OutcomeKind = OutcomeKind.RESULT


@dataclass(slots=True)
class Conversation:
    """What a caller hears of a call while it goes on (agent runs).

    Attributes:
        on_message: gets the messages of ``AGENT_OPERATIONS`` in order, and a function that
            answers one; runs on the node's link thread and must only hand them on.
        token: set by the node; names the call to ``end_call``.
    """

    on_message: Callable[[JSONObject, Callable[[JSONObject], None]], None]
    token: str = ""


class WorkerHost(Protocol):
    """A node: one Celery worker process with its runtime.

    ``tasks.node.current_node()`` returns the one of this process.
    """

    @property
    def node(self) -> str:
        """Name of the node, as in ``worker_instances.node``."""

    def call(
        self,
        app_id: str,
        kind: CallKind,
        message: JSONObject,
        *,
        actor: Actor | None,
        lifetime_s: float | None = None,
        conversation: Conversation | None = None,
    ) -> Future[CallOutcome]:
        """Hand one call to the app's process on this node; returns at once.

        Starts the process if it is absent. The future never raises; its callbacks run on the
        node's link thread and must only hand the outcome on.

        Args:
            app_id: whose process.
            kind: rpc, job or agent_invoke.
            message: fields of contract part 30, 4.2, without ``type``, ``call``, ``caller``
                (the node adds the caller).
            actor: whose rights the call has; None = nobody's.
            lifetime_s: seconds until the call ends as ``timeout``; None = no limit.
            conversation: hears what the process says about the call meanwhile.
        """

    def end_call(self, token: str, text: str) -> None:
        """End an open call; its future gets ``text``. Idempotent."""

    def capabilities(self, app_id: str) -> frozenset[str]:
        """Return what the app's process announced, starting it if it is absent.

        Blocks until the process is up; empty for an app without running code.

        Raises:
            AppError: it does not start.
        """


@dataclass(frozen=True, slots=True)
class Stage:
    """A deployment whose process is to be started beside the current one."""

    app_id: str
    deployment_id: str
    sha256: str
    entry_point: str
    runtime: str
    generation: int


class DeployHost(WorkerHost, Protocol):
    """What a node offers to deploys and starts. Every method blocks until it is done."""

    def stage(self, stage: Stage) -> None:
        """Start a process of a deployment that is not current yet; it gets no calls.

        Raises:
            AppError: with the contract's text; the running process was not touched.
        """

    def discard(self, app_id: str) -> None:
        """Stop the staged process."""

    def start_app(self, app_id: str) -> None:
        """Have a process of what Postgres wants now, promoting a staged one; clear crashes.

        Raises:
            AppError: it did not start.
        """
