"""Values of the queue library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a queue's three tables and of the columns its user added.

    Attributes:
        lane: columns that part the queue; each claim names a value for every one.
        body: further columns, copied from table to table, each with its SQL type.
    """

    live: str
    archive: str
    dead: str
    lane: tuple[str, ...]
    body: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The user's columns, lane first."""
        return (*self.lane, *self.body)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send.

    Attributes:
        values: one text per column of the layout, in the type's input syntax, or None.
        delay_s: seconds until it becomes visible.
        priority: higher is delivered first.
    """

    values: Mapping[str, str | None]
    delay_s: float = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages that Postgres makes of rows it has.

    Attributes:
        statement: a SELECT of our own source, with a column for each of the layout's that is
            not to have its default, and ``place``: their order.
        columns: the layout's columns among them.
        values: its parameters.
    """

    statement: str
    columns: tuple[str, ...]
    values: Mapping[str, Any]  # Any: parameters


class Receipt(NamedTuple):
    """One delivery of a message; stale once the message was delivered again."""

    msg_id: int
    read_ct: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed message.

    Attributes:
        read_ct: deliveries so far, this one included.
        attempts: failed attempts so far.
        body: the user's columns, lane included.
    """

    msg_id: int
    read_ct: int
    enqueued_at: datetime
    attempts: int
    body: Mapping[str, Any]  # Any: column values

    @property
    def receipt(self) -> Receipt:
        """What settling this delivery needs."""
        return Receipt(self.msg_id, self.read_ct)


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery to move to the dead letters.

    Attributes:
        uncount: the delivery never reached anybody, so it is taken off ``read_ct``.
    """

    receipt: Receipt
    reason: str
    error: str | None = None
    uncount: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """A delivery to make visible again.

    Attributes:
        delay_s: seconds until then.
        error: why it failed; None = it did not fail, and no attempt is counted.
        uncount: as in ``Failure``.
    """

    receipt: Receipt
    delay_s: float = 0
    error: str | None = None
    uncount: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """State of a queue; ages in seconds, None when it is empty."""

    queue_length: int
    queue_visible_length: int
    newest_msg_age_sec: float | None
    oldest_msg_age_sec: float | None
    total_messages: int
    scrape_time: datetime
