"""Enqueueing in a hurry: what comes in at one moment is written by one statement.

The statement relies on what this process remembers of the callers' rights and writes nothing
unless all of it still holds. So it can only say yes; whatever else there is to say, errors above
all, is said by ``service.enqueue``.

Source: REST contract part 30, section 9.1; ADR 0009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError

from app.core.actor import Actor
from app.core.errors import Outdated
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from app.jobs import repository, service
from app.jobs.messages import TakeTurn
from app.jobs.service import Enqueued, NewJob
from app.pgqueue.types import Outgoing

MAX_PAYLOAD_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A job, and the state of the authority tables under which its owner may enqueue it."""

    outgoing: Outgoing
    stamp: UUID


def enqueue(
    units: UnitOfWorkFactory,
    actor: Actor,
    *,
    app_id: str,
    payload: Any,  # Any: a JSON value
    user_id: object = None,
    priority: int = 0,
    max_attempts: int = 1,
    **special: object,
) -> Enqueued:
    """Put one job on the app's queue; durable on return. Arguments as of ``service.enqueue``.

    Raises:
        Outdated: nothing was written; ``service.enqueue`` will do it or say what is wrong.
        Invalid: a value breaks a rule of the contract.
    """
    if actor.stamp is None or any(special.values()) or user_id not in (None, str(actor.user_id)):
        raise Outdated
    job = NewJob(app_id, payload, actor.user_id, priority=priority, max_attempts=max_attempts)
    outgoing = service.outgoing(job)
    if len(outgoing.values["payload"] or "") > MAX_PAYLOAD_CHARS:
        raise Outdated
    msg_id = units.together(_write, _Arrival(outgoing, actor.stamp))
    if msg_id is None:
        raise Outdated
    return Enqueued(msg_id)


def _write(uow: UnitOfWork, arrivals: Sequence[_Arrival]) -> Sequence[int | None]:
    """Write all jobs and return their ids, or none of them."""
    stamps = {str(arrival.stamp) for arrival in arrivals}
    try:
        ids = repository.send_if_unchanged(
            uow.session, [arrival.outgoing for arrival in arrivals], stamps
        )
    except (DataError, IntegrityError):
        # One of them cannot be stored, and each is to hear its own error.
        ids = []
    if len(ids) != len(arrivals):
        return [None] * len(arrivals)
    for arrival in arrivals:
        uow.send_after_commit(TakeTurn(str(arrival.outgoing.values["app_id"])))
    return ids
