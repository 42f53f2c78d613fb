"""Agent handlers: text chunks out while they run, the whole text at the end."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trellis_worker.context import BaseContext
    from trellis_worker.shape import Handler
    from trellis_worker.values import Record
    from trellis_worker.wire import Wire


class AgentRun:
    """An agent handler as the server runs it; returns the final text and token count."""

    def __init__(self, wire: Wire, handler: Handler) -> None:
        self._wire = wire
        self._handler = handler
        self.is_async = handler.is_async

    def __call__(self, *args: Any) -> Any:  # Any: dict, or awaitable of it
        """Run the handler, given (invoke, ctx), in whichever of its four forms it has."""
        invoke, ctx = args
        result = self._handler(invoke, ctx)
        if hasattr(result, "__aiter__"):
            return self._collect_async(invoke, ctx, result)
        if hasattr(result, "__await__"):
            return self._finish_async(ctx, result)
        if hasattr(result, "__next__"):
            return self._collect(invoke, ctx, result)
        return _final(ctx, result, [])

    def _collect(self, invoke: Record, ctx: BaseContext, chunks: Any) -> dict[str, Any]:
        parts: list[str] = []
        returned = None
        while True:
            try:
                part = next(chunks)
            except StopIteration as stop:
                returned = stop.value
                break
            self._chunk(invoke, parts, part)
        return _final(ctx, returned, parts)

    async def _collect_async(self, invoke: Record, ctx: BaseContext, chunks: Any) -> dict[str, Any]:
        parts: list[str] = []
        async for part in chunks:
            self._chunk(invoke, parts, part)
        return _final(ctx, None, parts)

    async def _finish_async(self, ctx: BaseContext, result: Any) -> dict[str, Any]:
        return _final(ctx, await result, [])

    def _chunk(self, invoke: Record, parts: list[str], part: object) -> None:
        text = str(part)
        parts.append(text)
        self._wire.send({"type": "agent_chunk", "invoke_id": invoke["invoke_id"], "delta": text})


def _final(ctx: BaseContext, returned: object, parts: list[str]) -> dict[str, Any]:
    if ctx._finished is not None:
        return ctx._finished
    text = "".join(parts) if returned is None else str(returned)
    return {"response": text, "tokens": None}
