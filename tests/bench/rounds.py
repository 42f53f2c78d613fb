"""How long each quantity is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rounds:
    """Length of a measurement.

    Attributes:
        warm_ups: rounds that are not counted.
        measured: rounds that are.
        seconds: length of a round that is timed.
        jobs: jobs of a round that works a queue off; a multiple of 1,000.
        waits: messages of a measurement of latency.
    """

    warm_ups: int = 3
    measured: int = 7
    seconds: float = 3.0
    jobs: int = 3000
    waits: int = 200

    @property
    def total(self) -> int:
        """Rounds to run."""
        return self.warm_ups + self.measured


FULL = Rounds()
# Shows that a quantity can be measured at all.
SHORT = Rounds(warm_ups=1, measured=2, seconds=1.0, jobs=1000, waits=50)
