"""How often processes that serve calls look for garbage."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000


def settle() -> None:
    """Leave what was loaded alone, and look at new objects by the ten thousands.

    Python's own 700 is one look for each request or so, a twelfth of a busy process's time. Nearly
    everything a request makes goes by itself; what remains may take some MiB for a while.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
    gc.enable()
