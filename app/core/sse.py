"""Texts of event streams: LF line ends, one blank after each colon, an empty line after each event."""

from __future__ import annotations

import json
from typing import Any, Final

KEEP_ALIVE: Final = ": keep-alive\n\n"


def event(data: Any, *, name: str | None = None, event_id: str | None = None) -> str:  # Any: JSON
    """Return one event with its data as compact JSON on a single line."""
    lines = []
    if event_id is not None:
        lines.append(f"id: {event_id}")
    if name is not None:
        lines.append(f"event: {name}")
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    lines.append(f"data: {text}")
    return "\n".join(lines) + "\n\n"
