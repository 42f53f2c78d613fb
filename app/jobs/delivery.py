"""Deliveries of jobs, and what the end of a call means for them. Pure.

Source: REST contract part 30, sections 4.2 and 9.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.actor import Actor
from app.core.clock import rfc3339
from app.pgqueue.types import Delivery, Failure, Receipt, Release
from app.workers.service import CallOutcome, OutcomeKind

FIRST_RETRY_S = 10
LONGEST_RETRY_S = 3600
JITTER = 0.1
# No process had the job; asking again at once would spin while the app comes up.
NOT_TAKEN_S = 2

HANDLER = frozenset({OutcomeKind.HANDLER_ERROR, OutcomeKind.UNKNOWN_METHOD, OutcomeKind.TOO_LARGE})
STOPPED = frozenset({OutcomeKind.STOPPED, OutcomeKind.ENDED})
NOT_TAKEN = frozenset(
    {
        OutcomeKind.CAPACITY,
        OutcomeKind.NOT_READY,
        OutcomeKind.NOT_RUNNING,
        OutcomeKind.START_FAILED,
    }
)
NOT_RUNNABLE = STOPPED | NOT_TAKEN


@dataclass(frozen=True, slots=True)
class Assignment:
    """A delivery and whose rights its handler has."""

    delivery: Delivery
    actor: Actor

    def message(self) -> dict[str, Any]:  # Any: JSON values
        """Return the fields of the ``job`` message to the app process."""
        body = self.delivery.body
        meta: dict[str, Any] = {  # Any: JSON values
            "read_ct": self.delivery.read_ct,
            "enqueued_at": rfc3339(self.delivery.enqueued_at),
            "source": body["source"],
        }
        if body["cron_id"] is not None:
            meta["cron_id"] = str(body["cron_id"])
        return {"id": str(self.delivery.msg_id), "payload": body["payload"], "meta": meta}


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """Jobs of one claim; ``exhausted``: no more were visible."""

    assignments: list[Assignment]
    exhausted: bool


Settlement = Receipt | Failure | Release


def judge(
    delivery: Delivery, outcome: CallOutcome, *, jitter: Callable[[], float] = random.random
) -> Settlement | None:
    """Return what the end of a call means for its job.

    Returns:
        A receipt to archive, a failure, a release, or None: the job stays hidden until its
        visibility timeout and is delivered again then (crash, hang, lost runtime).
    """
    receipt = delivery.receipt
    if outcome.ok:
        return _verdict(delivery, outcome.value) or receipt
    if outcome.kind in HANDLER:
        return _handler_error(delivery, outcome.error, jitter)
    if outcome.kind in STOPPED:
        return Release(receipt)
    if outcome.kind in NOT_TAKEN:
        return Release(receipt, delay_s=NOT_TAKEN_S, uncount=True)
    return None


def _handler_error(delivery: Delivery, error: str, jitter: Callable[[], float]) -> Settlement:
    error = storable(error)
    attempt = delivery.attempts + 1
    if attempt >= delivery.body["max_attempts"]:
        return Failure(delivery.receipt, f"handler error: {error}", error)
    delay_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (attempt - 1))
    return Release(
        delivery.receipt, delay_s=delay_s * (1 + JITTER * (2 * jitter() - 1)), error=error
    )


def _verdict(delivery: Delivery, value: Any) -> Settlement | None:  # Any: a JSON value
    """Read the SDK's ``Retry`` and ``Reject``, which end a handler without an error."""
    order = value.get("$job") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(order, Mapping):
        return None
    if "retry" in order:
        delay_s = order["retry"]
        usable = isinstance(delay_s, int | float) and 0 <= delay_s <= 86400
        return Release(delivery.receipt, delay_s=delay_s if usable else 0, error="retry requested")
    if "reject" in order:
        reason = storable(str(order["reject"])[:4000])
        return Failure(delivery.receipt, reason, reason)
    return None


def storable(text: str) -> str:
    """Return a text without the characters Postgres cannot store."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
