"""Work that several callers have at the same moment, done by one of them for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

E = TypeVar("E")
R = TypeVar("R")

MOST = 64


@dataclass(slots=True, eq=False)
class _Caller(Generic[E, R]):
    entry: E
    leads: bool = False
    result: R | None = None
    error: BaseException | None = None
    turn: threading.Event = field(default_factory=threading.Event)


class Group(Generic[E, R]):
    """Gathers entries while work on earlier ones is under way; a lone entry never waits.

    There is no thread: the first caller of a batch works for all of it, then wakes the first of
    the next. Thread-safe.
    """

    def __init__(self, work: Callable[[Sequence[E]], Sequence[R]]) -> None:
        """Take the work; it gets 1 to ``MOST`` entries and returns a result for each."""
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[_Caller[E, R]] = []
        self._busy = False

    def do(self, entry: E) -> R:
        """Return the result of an entry. An error of the work is raised for its whole batch."""
        caller: _Caller[E, R] = _Caller(entry)
        with self._lock:
            self._waiting.append(caller)
            caller.leads = not self._busy
            self._busy = True
        if not caller.leads:
            caller.turn.wait()
        if caller.leads:
            self._lead()
        if caller.error is not None:
            raise caller.error
        return caller.result  # type: ignore[return-value]  # set unless there is an error

    def _lead(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            results = self._work([caller.entry for caller in batch])
            for caller, result in zip(batch, results, strict=True):
                caller.result = result
        except BaseException as exc:
            for caller in batch:
                caller.error = exc
        finally:
            self._hand_on()
            for caller in batch[1:]:
                caller.turn.set()

    def _hand_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.set()
            else:
                self._busy = False
