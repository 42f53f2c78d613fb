"""Doing work where it comes up instead of waking another thread for it, while that is quick."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, ParamSpec

P = ParamSpec("P")

QUICK_S: Final = 0.002


class Shortcut:
    """Open as long as the last work measured took less than 2 ms.

    Waking a thread costs a lone call a tenth of its time. A thread that others depend on must not
    wait for a server that is slow or away, at least not twice.
    """

    def __init__(self) -> None:
        self.open = True

    def measure(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do work and note whether it was quick."""
        began = time.monotonic()
        try:
            work(*args, **kwargs)
        finally:
            self.open = time.monotonic() - began < QUICK_S
