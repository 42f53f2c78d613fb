"""The pipe to the host: messages out, messages in, and operations waiting for their answer."""

from __future__ import annotations

import itertools
import json
import os
import threading

from trellis_worker.encoding import dump
from trellis_worker.errors import CallOver, HostError, HostTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Message = dict[str, Any]

CALL_OVER = "call is over"
ANSWER_TYPES = frozenset(
    {
        "collection_op_result",
        "sql_query_result",
        "sql_exec_result",
        "sql_begin_result",
        "sql_end_result",
        "self_action_result",
        "storage_upload_url",
        "job_enqueue_result",
        "job_extend_result",
        "job_progress_result",
        "agent_tool_result",
    }
)


class Wire:
    """Private duplicates of the protocol's descriptors. Thread-safe."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.max_line_bytes = 8 * 1024 * 1024
        self.call_timeout_s = 30.0
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._waiting: dict[str, Callable[[Message], None]] = {}

    def send(self, message: Message) -> None:
        """Write one message.

        Raises:
            NotSerialisable: a value in it has no JSON form.
            ValueError: it is longer than a line may be.
        """
        line = dump(message) + b"\n"
        if len(line) > self.max_line_bytes:
            raise ValueError("message too large")
        self._write(line)

    def answer(self, message: Message) -> None:
        """Write the answer of a call; one that cannot be sent becomes an error answer."""
        try:
            self.send(message)
        except (TypeError, ValueError) as exc:
            text = "result too large" if str(exc) == "message too large" else str(exc)
            rest = {k: v for k, v in message.items() if k not in {"result", "response", "tokens"}}
            if rest["type"] == "agent_done":
                rest["type"] = "agent_error"
            self.send({**rest, "error": text})

    def _write(self, line: bytes) -> None:
        with self._lock:
            view = memoryview(line)
            while view:
                view = view[os.write(self.write_fd, view) :]

    def messages(self) -> Iterator[Message]:
        """Yield the host's messages until it closes the pipe."""
        rest = b""
        while chunk := os.read(self.read_fd, 1 << 16):
            if b"\n" not in chunk:
                rest += chunk
                continue
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                message = json.loads(line) if line.strip() else None
                if isinstance(message, dict):
                    yield message

    # --- operations ------------------------------------------------------------------------

    def begin(self, message: Message, done: Callable[[Message], None]) -> str:
        """Send an operation; ``done`` gets its answer on the reading thread.

        Returns:
            The operation's id, for ``forget``.
        """
        op_id = str(message.get("call_id") or f"o{next(self._ids)}")
        self._waiting[op_id] = done
        named = message if "call_id" in message else {**message, "id": op_id}
        try:
            self.send(named)
        except (TypeError, ValueError):
            self.forget(op_id)
            raise
        return op_id

    def forget(self, op_id: str) -> None:
        """Stop waiting for an operation."""
        self._waiting.pop(op_id, None)

    def take_answer(self, message: Message) -> bool:
        """Hand an answer to who waits for it; False if the message is no answer."""
        if message.get("type") not in ANSWER_TYPES:
            return False
        done = self._waiting.pop(str(message.get("call_id") or message.get("id")), None)
        if done is not None:
            done(message)
        return True

    def ask(self, message: Message, timeout_s: float | None) -> Message:
        """Send an operation and block until it is answered.

        Raises:
            HostError: the host refused.
            HostTimeout: no answer in time.
            CallOver: the call it was for is over.
        """
        answered = threading.Event()
        answers: list[Message] = []

        def done(answer: Message) -> None:
            answers.append(answer)
            answered.set()

        op_id = self.begin(message, done)
        if not answered.wait(timeout_s):
            self.forget(op_id)
            raise HostTimeout(f"no answer from the host within {timeout_s:g} s")
        return checked(answers[0])


def checked(answer: Message) -> Message:
    """Return an answer, raising what its ``error`` says."""
    error = answer.get("error")
    if error is None:
        return answer
    if error == CALL_OVER:
        raise CallOver(CALL_OVER)
    raise HostError(str(error))
