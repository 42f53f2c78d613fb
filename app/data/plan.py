"""The difference between a data contract and the live tables, as reported and as applied.

One plan serves both ``schema/verify`` (its changes) and install (its steps), so the dry run
cannot differ from what an install does.

Source: REST contract part 20, sections 4.1 to 4.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from psycopg2 import sql

from app.core.errors import AppError, Conflict, Invalid


class Phase(IntEnum):
    """Order of the steps over all tables of an app."""

    DROP = 1
    CREATE = 2
    CONVERT = 3
    ADD = 4
    NULLABILITY = 5
    DEFAULTS = 6
    DROP_COLUMNS = 7
    CONSTRAIN = 8
    LINK = 9
    MARK = 10
    GUARD = 11


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the drift report."""

    entity: str
    change_type: str
    column: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What it means when Postgres refuses a step.

    Attributes:
        text: text of the 409.
        states: prefixes of the SQLSTATEs that are this 409.
        fragment: prefix of the 400 for SQL the app wrote; empty = the step holds none.
    """

    text: str = ""
    states: tuple[str, ...] = ()
    fragment: str = ""

    def error(self, state: str, message: str) -> AppError | None:
        """Return the error of a SQLSTATE, or None if it is unexpected."""
        if self.text and state.startswith(self.states):
            return Conflict(self.text)
        if self.fragment and state[:2] in {"0A", "22", "2B", "42", "54"}:
            return Invalid(f"{self.fragment}: {message}")
        return None


@dataclass(frozen=True, slots=True)
class Step:
    """One statement and the meaning of its failure.

    Attributes:
        alone: it holds SQL the app wrote and is sent by itself: an unbalanced quote in it must
            not turn a literal of a neighbour into SQL.
    """

    statement: sql.Composable
    failure: Failure = Failure()
    alone: bool = False


@dataclass(slots=True)
class Plan:
    """Changes to report and steps to apply, in order of phases."""

    changes: list[Change] = field(default_factory=list)
    phases: dict[Phase, list[Step]] = field(default_factory=lambda: {p: [] for p in Phase})

    def report(self, entity: str, change_type: str, column: str, detail: str | None = None) -> None:
        """Add a line to the drift report."""
        self.changes.append(Change(entity, change_type, column, detail))

    def do(
        self,
        phase: Phase,
        statement: sql.Composable,
        failure: Failure = Failure(),
        *,
        alone: bool = False,
    ) -> None:
        """Add a step."""
        self.phases[phase].append(Step(statement, failure, alone))

    def batches(self, most: int) -> Iterator[list[Step]]:
        """Yield every step in the order it must run, those that may go together in lists.

        Steps that stand alone depend on no other step of their phase.
        """
        for phase in Phase:
            steps = self.phases[phase]
            together = [step for step in steps if not step.alone]
            for start in range(0, len(together), most):
                yield together[start : start + most]
            yield from ([step] for step in steps if step.alone)


WantedDefaults = Mapping[tuple[str, str], str]
