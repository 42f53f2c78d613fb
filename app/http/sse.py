"""Answers that are event streams."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response


def event_stream(events: Iterator[str]) -> Response:
    """Return a streaming response of already formatted events.

    The events are made after the request's context is gone: they must not need it.
    """
    return Response(
        events,
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )
