"""The calls a process works on: an operation is accepted only for one of them.

Source: contract part 30, 3.2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from workers_runtime.protocol import JSON, CallKind, JSONObject


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call in flight.

    Attributes:
        token: 128 random bits in hex, known to the process.
        key: id in the call's own messages: rpc and job ``id``, agent ``invoke_id``.
        operations: unanswered operations by number.
    """

    token: str
    kind: CallKind
    key: str
    future: asyncio.Future[JSON]
    operations: dict[int, JSONObject] = field(default_factory=dict)


class OpenCalls:
    """Calls of one process by token and by id.

    A job that hangs is delivered again, perhaps to the same process: then two calls have one id.
    """

    def __init__(self) -> None:
        self._by_token: dict[str, OpenCall] = {}
        self._by_key: dict[tuple[CallKind, str], list[OpenCall]] = {}

    def add(self, call: OpenCall) -> bool:
        """Add a call; False if its token is taken, or its id and it is no job."""
        key = (call.kind, call.key)
        if call.token in self._by_token or (key in self._by_key and call.kind is not CallKind.JOB):
            return False
        self._by_token[call.token] = call
        self._by_key.setdefault(key, []).append(call)
        return True

    def remove(self, token: str) -> OpenCall | None:
        """Take a call out; None if it is not open."""
        call = self._by_token.pop(token, None)
        if call is not None:
            same = self._by_key[call.kind, call.key]
            same.remove(call)
            if not same:
                del self._by_key[call.kind, call.key]
        return call

    def get(self, token: str) -> OpenCall | None:
        """Return an open call by its token."""
        return self._by_token.get(token)

    def find(self, kind: CallKind, key: JSON, token: JSON = None) -> OpenCall | None:
        """Return an open call by the id in its answer.

        Of several deliveries of a job, the one whose token the answer names, else the latest.
        """
        same = self._by_key.get((kind, str(key))) if isinstance(key, str | int) else None
        if not same:
            return None
        if isinstance(token, str):
            return next((call for call in same if call.token == token), None)
        return same[-1]

    def named(self, token: JSON, protocol: int) -> OpenCall | None:
        """Return the call an operation works for, or None: it is over or unknown.

        A process of protocol 1 names no call; its operation belongs to the only one in flight.
        """
        if isinstance(token, str):
            return self._by_token.get(token)
        if token is None and protocol == 1 and len(self._by_token) == 1:
            return next(iter(self._by_token.values()))
        return None

    def tokens(self) -> list[str]:
        """Return the tokens of all open calls."""
        return list(self._by_token)

    @property
    def start(self) -> OpenCall | None:
        """The start call while it is open."""
        return self.find(CallKind.START, "start")

    @property
    def count(self) -> int:
        """Number of open calls, the start call aside."""
        return len(self._by_token) - (self.start is not None)

    def count_of(self, kind: CallKind) -> int:
        """Number of open calls of one kind."""
        return sum(call.kind is kind for call in self._by_token.values())
