"""A message queue in three Postgres tables, with the semantics of pgmq.

Every call runs in the caller's session, so a message exists if and only if the transaction that
sent it committed. Delivery is at least once: a claimed message is hidden until its visibility
timeout and delivered again unless it was settled.

Source: REST contract part 30, section 11; ADR 0004.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.pgqueue.queries import compose, selected
from app.pgqueue.types import (
    Delivery,
    Failure,
    Layout,
    Metrics,
    Outgoing,
    Receipt,
    Release,
    Selection,
)

# Of the redeliverable messages of a lane, so many that waited longest are put in order by a claim.
WINDOW = 256


class Queue:
    """The queue of one layout. Stateless; safe to share between threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sql = compose(layout)

    def send(self, session: Session, messages: Sequence[Outgoing]) -> list[int]:
        """Put messages on the queue in one statement.

        Returns:
            Their ids in the given order: increasing, never reused, gaps after rollbacks.
        """
        if not messages:
            return []
        values: dict[str, Any] = {  # Any: column values
            column: [message.values.get(column) for message in messages]
            for column in self._layout.columns
        }
        values["priority"] = [message.priority for message in messages]
        values["delay_s"] = [float(message.delay_s) for message in messages]
        return sorted(session.execute(self._sql.send, values).scalars())

    def send_selected(self, session: Session, selection: Selection) -> list[int]:
        """Put one message on the queue per selected row, without a detour through Python.

        Returns:
            Their ids in the order of the selection's ``place``.
        """
        statement = selected(self._layout.live, selection.columns, selection.statement)
        return sorted(session.execute(statement, dict(selection.values)).scalars())

    def claim(
        self,
        session: Session,
        lane: Mapping[str, str],
        *,
        quantity: int,
        vt_s: float,
        quick: bool = False,
    ) -> list[Delivery]:
        """Deliver up to ``quantity`` visible messages of a lane: hide them, count the delivery.

        By priority, then by age. Two concurrent claims never return the same message; a rollback
        undoes the claim. With ``quick`` the commit does not wait for the disk: a crash of Postgres
        within a second may undo it, so that the messages are delivered once more.

        Returns:
            The deliveries in that order.
        """
        values = {
            **lane,
            "quantity": quantity,
            "window": WINDOW,
            "vt_s": float(vt_s),
            "durability": "off" if quick else None,
        }
        rows = session.execute(self._sql.claim, values).all()
        rows = sorted(rows, key=lambda row: (-row[4], row[0]))
        columns = self._layout.columns
        return [
            Delivery(row[0], row[1], row[2], row[3], dict(zip(columns, row[5:], strict=True)))
            for row in rows
        ]

    def waits(self, session: Session, lane: Mapping[str, str]) -> bool:
        """Tell whether a lane has a visible message; reads at most two index entries."""
        return bool(session.execute(self._sql.waits, lane).scalar_one())

    def set_vt(
        self, session: Session, msg_id: int, vt_s: float, *, read_ct: int | None = None
    ) -> datetime | None:
        """Hide a message for ``vt_s`` seconds from now; 0 or less makes it visible.

        With ``read_ct``, only if that is still its latest delivery.

        Returns:
            When it becomes visible; None when there is no such message.
        """
        values = {"msg_id": msg_id, "vt_s": float(vt_s), "read_ct": read_ct}
        return session.execute(self._sql.set_vt, values).scalar_one_or_none()

    def release(self, session: Session, releases: Sequence[Release]) -> list[int]:
        """Make deliveries visible again; stale ones are left alone. Return the ids done."""
        if not releases:
            return []
        values = {
            **_receipts(release.receipt for release in releases),
            "delay_s": [float(release.delay_s) for release in releases],
            "error": [release.error for release in releases],
            "uncount": [int(release.uncount) for release in releases],
        }
        return list(session.execute(self._sql.release, values).scalars())

    def archive(self, session: Session, msg_ids: Iterable[int]) -> list[int]:
        """Move messages to the archive, whatever their timeout. Return the ids moved."""
        return self._by_ids(session, self._sql.archive, msg_ids)

    def delete(self, session: Session, msg_ids: Iterable[int]) -> list[int]:
        """Remove messages for good. Return the ids removed."""
        return self._by_ids(session, self._sql.delete, msg_ids)

    def dead_letter(self, session: Session, failures: Sequence[Failure]) -> list[int]:
        """Move deliveries to the dead letters; stale ones stay. Return the ids moved."""
        if not failures:
            return []
        values = {
            **_receipts(failure.receipt for failure in failures),
            "reason": [failure.reason for failure in failures],
            "error": [failure.error for failure in failures],
            "uncount": [int(failure.uncount) for failure in failures],
        }
        return list(session.execute(self._sql.dead_letter, values).scalars())

    def bury(self, session: Session, msg_id: int, reason: str) -> bool:
        """Move one message to the dead letters, whatever its delivery; tell whether it was there."""
        values = {
            "msg_id": [msg_id], "read_ct": [None], "reason": [reason], "error": [None], "uncount": [0]
        }  # fmt: skip
        return bool(session.execute(self._sql.dead_letter, values).scalars().all())

    def revive(
        self, session: Session, lane: str, msg_ids: Sequence[int] | None = None
    ) -> list[int]:
        """Put dead letters back with ``read_ct`` 0; all of a lane's first column when None."""
        values = {self._layout.lane[0]: lane, "msg_id": None if msg_ids is None else list(msg_ids)}
        return list(session.execute(self._sql.revive, values).scalars())

    def visible_lanes(self, session: Session) -> list[tuple[str, ...]]:
        """Return every lane with a visible message; reads one index entry per lane."""
        return [tuple(row) for row in session.execute(self._sql.visible_lanes)]

    def deadlines(self, session: Session, msg_ids: Sequence[int]) -> dict[int, tuple[int, float]]:
        """Return ``read_ct`` and the seconds until visibility of the messages that exist."""
        rows = session.execute(self._sql.deadlines, {"msg_id": list(msg_ids)})
        return {row[0]: (row[1], float(row[2])) for row in rows}

    def forget(self, session: Session, lane: str) -> None:
        """Delete everything of a lane's first column from all three tables."""
        values = {self._layout.lane[0]: lane}
        for statement in (self._sql.forget_live, self._sql.forget_archive, self._sql.forget_dead):
            session.execute(statement, values)

    def prune(
        self, session: Session, *, archive_s: float | None, dead_s: float | None, most: int = 10_000
    ) -> int:
        """Delete archived and dead messages over an age, at most ``most`` of each.

        Ages are seconds; None keeps them for ever. Return how many were deleted.
        """
        pruned = 0
        ages = ((self._sql.prune_archive, archive_s), (self._sql.prune_dead, dead_s))
        for statement, age_s in ages:
            if age_s is not None:
                values = {"age_s": float(age_s), "most": most}
                result: Any = session.execute(statement, values)  # Any: CursorResult
                pruned += int(result.rowcount)
        return pruned

    def metrics(self, session: Session) -> Metrics:
        """Count the queue. Reads all of it: for operators, not for hot paths."""
        row = session.execute(self._sql.metrics, {"table": self._layout.live}).one()
        return Metrics(**row._mapping)

    def _by_ids(self, session: Session, statement: Any, msg_ids: Iterable[int]) -> list[int]:
        # Sorted, so that two transactions lock common rows in the same order.
        wanted = sorted(set(msg_ids))
        return list(session.execute(statement, {"msg_id": wanted}).scalars()) if wanted else []


def _receipts(receipts: Iterable[Receipt]) -> dict[str, list[int]]:
    listed = list(receipts)
    return {"msg_id": [r.msg_id for r in listed], "read_ct": [r.read_ct for r in listed]}
