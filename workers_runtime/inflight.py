"""The calls that the node handed over and that have no answer yet.

Source: contract part 30, 3.2 and 7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from workers_runtime.node_protocol import Call, EndCall
from workers_runtime.process import AppProcess
from workers_runtime.protocol import JSON, FailureKind, WorkerFailure


class InFlight:
    """Open calls by token; each ends with its answer, its process, its deadline or the node's word.

    Args:
        timeout_s: what an RPC's caller is told it waited for.
        on_end: called after each end; its process may be idle then.
    """

    def __init__(self, timeout_s: float, on_end: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._processes: dict[str, AppProcess] = {}

    def open(self, call: Call, process: AppProcess) -> asyncio.Future[JSON]:
        """Send a call to a process.

        Returns:
            Future of the result; it fails with ``WorkerFailure``.
        """
        future = process.open(call.kind, call.call, call.message)
        self._processes[call.call] = process
        timer = self._timer(call, process)

        def over(_future: asyncio.Future[JSON]) -> None:
            if timer is not None:
                timer.cancel()
            self._processes.pop(call.call, None)
            self._on_end()

        future.add_done_callback(over)
        return future

    def end(self, message: EndCall) -> None:
        """End a call with the node's text."""
        process = self._processes.get(message.call)
        if process is not None:
            process.close(message.call, WorkerFailure(FailureKind.ENDED, message.error))

    def _timer(self, call: Call, process: AppProcess) -> asyncio.TimerHandle | None:
        if call.deadline is None:
            return None
        text = f"{call.kind} timeout: no answer within {self._timeout_s:g} s"
        late = WorkerFailure(FailureKind.TIMEOUT, text)
        left_s = max(0.0, call.deadline - time.time())
        return asyncio.get_running_loop().call_later(left_s, process.close, call.call, late)
