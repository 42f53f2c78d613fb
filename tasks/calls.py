"""The calls that app processes of this node work on, and whose rights each has.

Identity belongs to the call, never to a message: an operation names its call, and this register
says what that call may do.

Source: REST contract part 30, section 3.2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from app.core.actor import Actor
from app.workers.host import Conversation
from workers_runtime.protocol import CallKind, JSONObject


@dataclass(slots=True)
class OpenCall:
    """One call.

    Attributes:
        actor: whose rights it has; None = nobody's.
        message: what the process was told, e.g. the job's id and delivery.
        conversation: who hears the call's agent messages.
        cleanups: run once when the call ends, e.g. to roll back an open transaction.
    """

    token: str
    app_id: str
    kind: CallKind
    actor: Actor | None
    message: JSONObject
    conversation: Conversation | None = None
    over: bool = False
    cleanups: list[Callable[[], None]] = field(default_factory=list)

    @property
    def unrestricted(self) -> bool:
        """Whether collections of its own app are open to it without permission checks."""
        return self.kind is CallKind.START


class CallRegister:
    """Open calls by token. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, OpenCall] = {}

    def add(self, call: OpenCall) -> None:
        """Open a call."""
        with self._lock:
            self._calls[call.token] = call

    def find(self, token: str, app_id: str) -> OpenCall | None:
        """Return an open call of an app."""
        call = self._calls.get(token)
        return call if call is not None and call.app_id == app_id else None

    def peek(self, token: str) -> OpenCall | None:
        """Return an open call."""
        return self._calls.get(token)

    def start_call(self, token: str, app_id: str) -> OpenCall:
        """Return the start call of a process, opening it if this is its first operation."""
        with self._lock:
            return self._calls.setdefault(token, OpenCall(token, app_id, CallKind.START, None, {}))

    def end(self, token: str) -> None:
        """Close a call and run what waits for its end; again is a no-op."""
        with self._lock:
            call = self._calls.pop(token, None)
            if call is None:
                return
            call.over = True
            cleanups, call.cleanups = call.cleanups, []
        for cleanup in cleanups:
            cleanup()

    def on_end(self, call: OpenCall, cleanup: Callable[[], None]) -> bool:
        """Have a function run when a call ends; False when it is over already."""
        with self._lock:
            if call.over:
                return False
            call.cleanups.append(cleanup)
            return True

    def of_user(self, user_id: UUID) -> list[str]:
        """Return the tokens of a user's open calls."""
        with self._lock:
            return [
                call.token
                for call in self._calls.values()
                if call.actor is not None
                and user_id in {call.actor.user_id, call.actor.delegator_id}
            ]

    def end_starts(self) -> None:
        """Close the start calls: their processes are gone with the runtime."""
        for token, call in list(self._calls.items()):
            if call.kind is CallKind.START:
                self.end(token)
