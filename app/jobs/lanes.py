"""What a node remembers of the apps whose jobs it runs. Pure: no clock, no lock, no I/O.

Jobs are handed out up to the slots of their app. Of an app whose jobs are short, some more are
claimed ahead, as many as its slots finish within ``AHEAD_S``, so that one transaction serves many
jobs; none waits here noticeably longer than in the table.

Source: REST contract part 30, section 13.1; ADR 0004.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from app.jobs.delivery import Assignment
from app.pgqueue.types import Receipt

AHEAD_S = 0.05
AHEAD_MOST = 64
# Weight of the latest duration in the running mean.
LATEST = 0.2
MOST_REMEMBERED = 10_000


@dataclass(slots=True)
class Lane:
    """One app on this node. Times are monotonic.

    Attributes:
        in_flight: deliveries that take a slot, and when they lose it.
        ahead: claimed jobs that wait for a slot, and when they were claimed.
        duration_s: running mean of how long jobs take; None = none has ended yet.
        tokens: turns that were taken and not given back.
        until: end of the present turn.
        more: the last claim found as much as it could take, or could not take anything.
        new_turn: a turn came in since the last look.
        ready: waits to be looked at.
        runnable_until: until then it need not be asked whether the worker may run.
    """

    app_id: str
    in_flight: dict[Receipt, float] = field(default_factory=dict)
    ahead: deque[tuple[Assignment, float]] = field(default_factory=deque)
    duration_s: float | None = None
    tokens: int = 0
    until: float = 0.0
    more: bool = False
    new_turn: bool = False
    ready: bool = False
    runnable_until: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self.in_flight or self.ahead or self.tokens or self.ready or self.more)

    def take_ahead(self) -> list[Assignment]:
        """Take away all jobs that wait for a slot."""
        taken = [assignment for assignment, _ in self.ahead]
        self.ahead.clear()
        return taken

    def note_duration(self, seconds: float) -> None:
        """Take a job's duration into the mean."""
        before = seconds if self.duration_s is None else self.duration_s
        self.duration_s = before + LATEST * (seconds - before)


class Lanes:
    """The lanes of a node, and the row of those that are to be looked at."""

    def __init__(self, slots: int) -> None:
        """Begin without a lane.

        Args:
            slots: jobs of one app in flight at most.
        """
        self._slots = slots
        self._lanes: dict[str, Lane] = {}
        self._row: deque[Lane] = deque()
        self._durations: dict[str, float | None] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    @property
    def waiting(self) -> bool:
        """Whether some lane is to be looked at."""
        return bool(self._row)

    @property
    def in_flight(self) -> int:
        """Jobs that take a slot or wait for one."""
        return sum(len(lane.in_flight) + len(lane.ahead) for lane in self._lanes.values())

    def add_turn(self, app_id: str, until: float) -> None:
        """Note a turn and put its app in the row."""
        lane = self._lanes.get(app_id)
        if lane is None:
            lane = Lane(app_id, duration_s=self._durations.get(app_id))
        lane.tokens += 1
        lane.new_turn = True
        lane.until = until
        self.wake(lane)

    def wake(self, lane: Lane) -> None:
        """Put a lane in the row unless it stands there."""
        if not lane.ready:
            lane.ready = True
            self._lanes[lane.app_id] = lane
            self._row.append(lane)

    def next_ready(self, most: int) -> list[Lane]:
        """Take lanes out of the row, longest waiting first."""
        lanes = [self._row.popleft() for _ in range(min(most, len(self._row)))]
        for lane in lanes:
            lane.ready = False
        return lanes

    def room(self, lane: Lane) -> int:
        """Return how many jobs to claim for a lane now; 0 = wait until more have ended."""
        ahead = 0
        if lane.duration_s is not None:
            ahead = min(AHEAD_MOST, int(self._slots * AHEAD_S / max(lane.duration_s, 1e-3)))
        room = self._slots + ahead - len(lane.in_flight) - len(lane.ahead)
        return room if room > ahead // 2 else 0

    def next_to_hand_out(self, ends_at: float) -> tuple[Lane, Assignment] | None:
        """Take a claimed job for which there is a slot, and take the slot."""
        for lane in self._lanes.values():
            if lane.ahead and len(lane.in_flight) < self._slots:
                assignment = lane.ahead.popleft()[0]
                lane.in_flight[assignment.delivery.receipt] = ends_at
                return lane, assignment
        return None

    def take_stale(self, claimed_before: float) -> list[Assignment]:
        """Take away the jobs that have waited for a slot since then.

        Their apps are slower than they were: nothing is claimed ahead until a job has ended.
        """
        stale: list[Assignment] = []
        for lane in self._lanes.values():
            while lane.ahead and lane.ahead[0][1] < claimed_before:
                lane.duration_s = None
                stale.append(lane.ahead.popleft()[0])
        return stale

    def end(self, lane: Lane, receipt: Receipt) -> None:
        """Free the slot of a delivery; a lane with more to do goes to the row."""
        if lane.in_flight.pop(receipt, None) is not None and lane.more:
            self.wake(lane)

    def overdue(self, now: float) -> list[tuple[Lane, Receipt]]:
        """Return the deliveries whose visibility timeout ran out, unless it was extended."""
        return [
            (lane, receipt)
            for lane in self._lanes.values()
            for receipt, end in lane.in_flight.items()
            if end <= now
        ]

    def take_tokens(self, lanes: Iterable[Lane] | None = None) -> dict[str, int]:
        """Return the turns to give back by app, and forget them here."""
        counts: dict[str, int] = {}
        for lane in list(self._lanes.values()) if lanes is None else lanes:
            if lane.tokens:
                counts[lane.app_id] = lane.tokens
                lane.tokens = 0
        return counts

    def drop_idle(self, lanes: Iterable[Lane]) -> None:
        """Forget lanes that have nothing to remember but how long their jobs take."""
        if len(self._durations) > MOST_REMEMBERED:
            self._durations.clear()
        for lane in lanes:
            if lane.idle and self._lanes.get(lane.app_id) is lane:
                del self._lanes[lane.app_id]
                self._durations[lane.app_id] = lane.duration_s
