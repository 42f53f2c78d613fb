"""The event loop of ``async def`` handlers and their awaitable ``ctx``.

Imported only when an app has such a handler: asyncio costs memory and start-up time.
"""

from __future__ import annotations

import asyncio
import threading

from trellis_worker.context import (
    BaseContext,
    Transaction,
    _for_tool,
    _nothing,
    _tx_id,
    _upload_message,
    _url,
    post_file,
)
from trellis_worker.errors import HostTimeout
from trellis_worker.wire import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from trellis_worker.wire import Message


class Loop:
    """One event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trellis-asyncio", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine; it handles its own errors."""
        asyncio.run_coroutine_threadsafe(work, self.loop)

    def wait(self, awaitable: Any) -> Any:  # Any: an author's awaitable and its result
        """Run an awaitable and block until it is done; on the loop's own thread only start it."""

        async def run() -> Any:  # Any: as above
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(run(), self.loop)
        return None if threading.current_thread() is self._thread else future.result()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


class AsyncContext(BaseContext):
    """``ctx`` of ``async def`` handlers: operations return awaitables."""

    def transaction(self) -> AsyncTransaction:
        """Return an async context manager whose ``tx.sql`` runs in one transaction."""
        self._check()
        return AsyncTransaction(self)

    async def upload_file(
        self, content: bytes | str, filename: str, content_type: str = "application/octet-stream"
    ) -> str:
        """Store a file; returns its id."""
        data = content.encode() if isinstance(content, str) else bytes(content)
        url = await self._ask(_upload_message(filename, content_type, len(data)), _url)
        return await asyncio.to_thread(post_file, self.runtime_url, url, data, content_type)

    def _ask(
        self, message: Message, decode: Callable[[Message], Any], *, forever: bool = False
    ) -> Any:  # Any: an awaitable of the operation's value
        self._check()
        timeout = None if forever else self._wire.call_timeout_s
        return self._wait({**message, "call": self._call}, decode, timeout)

    async def _wait(
        self, message: Message, decode: Callable[[Message], Any], timeout_s: float | None
    ) -> Any:  # Any: depends on the operation
        self._check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Message] = loop.create_future()

        def done(answer: Message) -> None:
            loop.call_soon_threadsafe(_settle, future, answer)

        op_id = self._wire.begin(message, done)
        try:
            async with asyncio.timeout(timeout_s):
                return decode(checked(await future))
        except TimeoutError:
            raise HostTimeout(f"no answer from the host within {timeout_s:g} s") from None
        except Exception as exc:
            raise _for_tool(message, exc) from None
        finally:
            self._wire.forget(op_id)


class AsyncTransaction(Transaction):
    """``async with ctx.transaction() as tx``."""

    async def __aenter__(self) -> AsyncTransaction:
        self._tx_id = await self._ctx._ask({"type": "sql_begin"}, _tx_id)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self._ctx._ask(self._end(kind), _nothing)


def _settle(future: asyncio.Future[Message], answer: Message) -> None:
    if not future.done():
        future.set_result(answer)
