"""From a failure of the runtime to an outcome of a call or an error of a command."""

from __future__ import annotations

from typing import Final

from app.core.errors import AppError, Failed, Invalid, NotReady
from app.workers.host import CallOutcome, OutcomeKind
from app.workers.rpc import timeout_text
from workers_runtime.protocol import CallKind, FailureKind, WorkerFailure

KINDS: Final = {
    FailureKind.HANDLER: OutcomeKind.HANDLER_ERROR,
    FailureKind.UNKNOWN_METHOD: OutcomeKind.UNKNOWN_METHOD,
    FailureKind.TOO_LARGE: OutcomeKind.TOO_LARGE,
    FailureKind.CRASHED: OutcomeKind.CRASHED,
    FailureKind.STOPPED: OutcomeKind.STOPPED,
    FailureKind.UNRESPONSIVE: OutcomeKind.UNRESPONSIVE,
    FailureKind.CAPACITY: OutcomeKind.CAPACITY,
    FailureKind.TIMEOUT: OutcomeKind.TIMEOUT,
    FailureKind.NOT_READY: OutcomeKind.NOT_READY,
    FailureKind.NOT_RUNNING: OutcomeKind.NOT_RUNNING,
    FailureKind.START_FAILED: OutcomeKind.START_FAILED,
    FailureKind.INSTALL_FAILED: OutcomeKind.START_FAILED,
    FailureKind.ENDED: OutcomeKind.ENDED,
}
UNAVAILABLE: Final = frozenset(
    {
        FailureKind.CAPACITY,
        FailureKind.NOT_READY,
        FailureKind.NOT_RUNNING,
        FailureKind.STOPPED,
        FailureKind.UNRESPONSIVE,
    }
)


def outcome_of(
    app_id: str, kind: CallKind, exc: BaseException, lifetime_s: float | None
) -> CallOutcome:
    """Return how a call ended that raised."""
    if not isinstance(exc, WorkerFailure):
        return CallOutcome(ok=False, error="worker host error", kind=OutcomeKind.ERROR)
    ended = KINDS.get(exc.kind, OutcomeKind.ERROR)
    return CallOutcome(ok=False, error=_text(app_id, kind, exc, ended, lifetime_s), kind=ended)


def _text(
    app_id: str, kind: CallKind, exc: WorkerFailure, ended: OutcomeKind, lifetime_s: float | None
) -> str:
    if ended is OutcomeKind.NOT_READY:
        return f"worker for app '{app_id}' is not ready"
    if ended is OutcomeKind.NOT_RUNNING:
        return f"worker for app '{app_id}' is not running"
    if ended is OutcomeKind.TIMEOUT and kind is CallKind.RPC and lifetime_s is not None:
        return timeout_text(lifetime_s)
    return exc.message


def command_error(exc: BaseException) -> AppError:
    """Return the error of a deploy or start that the runtime refused."""
    if not isinstance(exc, WorkerFailure):
        return NotReady("no worker host available")
    if exc.kind is FailureKind.BAD_ARCHIVE:
        return Invalid(exc.message)
    if exc.kind in UNAVAILABLE:
        return NotReady(exc.message)
    return Failed(exc.message)
