"""Limits and offsets that clients send as text."""

from __future__ import annotations

import re

INTEGER = re.compile(r"[+-]?\d{1,18}")


def whole_number(text: str | None) -> int | None:
    """Return the integer a text spells, or None."""
    if text is None or INTEGER.fullmatch(text.strip()) is None:
        return None
    return int(text)


def clamp(value: int, low: int, high: int) -> int:
    """Return the value moved into ``low..high``."""
    return max(low, min(high, value))
