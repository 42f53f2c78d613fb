"""RPC on the API's side: accept a call, send it, wait for its answer.

Calls of one app that come in while a message is being published travel together in the next
one; a lone call is sent at once.

Source: REST contract part 30, section 7; ADR 0003.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from app.apps import service as apps_service
from app.core.actor import Actor
from app.core.errors import (
    AppError,
    Failed,
    Forbidden,
    Invalid,
    NotFound,
    NotReady,
    Unauthenticated,
)
from app.core.ids import check_app_id
from app.core.messaging import Publisher, Queue
from app.core.platform import Platform
from app.core.replies import NoAnswer, Question, Reply, Silence
from app.workers import repository
from app.workers.host import OutcomeKind
from app.workers.messages import CallRPC

log = structlog.get_logger(__name__)

MAX_CALLS: Final = 64
NO_APP: Final = "no_app"
NO_ACCOUNT: Final = "no_account"
NO_PERMISSION: Final = "no_permission"
NO_KEY: Final = ""
REFUSALS: Final = {NO_APP: NotFound, NO_ACCOUNT: Unauthenticated, NO_PERMISSION: Forbidden}
FEW: Final = 3
GATHER_PER_CALL_S: Final = 0.0002
GATHER_MOST_S: Final = 0.004
NOT_READY_KINDS: Final = frozenset(
    {
        OutcomeKind.STOPPED,
        OutcomeKind.UNRESPONSIVE,
        OutcomeKind.CAPACITY,
        OutcomeKind.NOT_READY,
        OutcomeKind.NOT_RUNNING,
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call inside a ``CallRPC`` message.

    Attributes:
        user_id: whose rights it has; empty = nobody's.
        app_scope: the app a caller token is limited to, or empty.
        deadline: Unix time.
        key: the permission the caller needs; empty = none besides being enabled.
        share: id of the share whose rights the call has, or empty.
    """

    question: str
    method: str
    params: Any  # Any: a JSON value
    user_id: str
    email: str
    app_scope: str
    deadline: float
    key: str
    share: str = ""

    def fields(self) -> list[Any]:  # Any: JSON values
        """Return the fields in order."""
        return [getattr(self, name) for name in self.__slots__]


def check(app_id: str, method: str) -> None:
    """Check what needs neither the database nor a node.

    Raises:
        Invalid: the method's name is reserved.
        Forbidden: the app id names a schema that is off limits.
    """
    if method.startswith("__"):
        raise Invalid(f"method '{method}' is reserved")
    check_app_id(app_id)


def call(
    platform: Platform,
    actor: Actor,
    *,
    app_id: str,
    method: str,
    params: Any,
    key: str,
    share: str = "",
    authorize: Callable[[], None],
) -> bytes:
    """Call a method of an app's worker and return its answer as JSON.

    The node reads the caller's rights when the call starts, so they are not read here as well.

    Args:
        platform: the process's platform.
        actor: who calls; its permissions do not matter.
        app_id: an id that passed ``check``.
        method: a name that passed ``check``.
        params: any JSON value.
        key: the permission the caller needs; ``NO_KEY`` = none besides being enabled.
        share: id of the share whose rights the call has, or empty.
        authorize: raises unless the actor may call; used when there is no node to ask.

    Raises:
        Unauthenticated: the principal is gone or disabled.
        Forbidden: it may not call the app.
        NotFound: the app is not installed.
        Failed: the handler raised, crashed or took too long.
        NotReady: there is no process, node or Redis to ask.
    """
    started = time.monotonic()
    _require_node(platform, app_id, authorize)
    limit_s = platform.settings.workers.rpc_timeout.total_seconds()
    with platform.replies.ask(Queue.RPC) as question:
        entry = Call(
            question=question.id,
            method=method,
            params=params,
            user_id="" if actor.user_id is None else str(actor.user_id),
            email=actor.email,
            app_scope=actor.app_scope or "",
            deadline=time.time() + limit_s,
            key=key,
            share=share,
        )
        with OUTBOX.sent(platform.publisher, app_id, question, entry):
            try:
                reply = question.wait(started + limit_s)
            except NoAnswer as exc:
                raise _silence(exc.reason, app_id, limit_s) from exc
    return _body(reply)


def _require_node(platform: Platform, app_id: str, authorize: Callable[[], None]) -> None:
    """Raise what the node would have answered, when there is none or no Redis."""
    try:
        alive = platform.replies.live_nodes()
    except NotReady:
        authorize()
        raise
    if alive:
        return
    authorize()
    with platform.uow.reading() as session:
        apps_service.require(session, app_id)
        if not repository.wanted(session, app_id).should_run:
            raise NotReady(f"worker for app '{app_id}' is not running")
    raise NotReady(f"worker for app '{app_id}' is not ready")


def _body(reply: Reply) -> bytes:
    if reply.kind == OutcomeKind.RESULT:
        return reply.body
    refused = REFUSALS.get(reply.kind)
    if refused is not None:
        raise refused(reply.text)
    if reply.kind in NOT_READY_KINDS:
        raise NotReady(reply.text)
    raise Failed(reply.text)


def _silence(reason: Silence, app_id: str, limit_s: float) -> AppError:
    match reason:
        case Silence.TIMEOUT:
            return Failed(timeout_text(limit_s))
        case Silence.NODE_DIED:
            return Failed("worker crashed")
        case Silence.NO_REDIS:
            return NotReady("service not ready")
        case Silence.NO_NODE | Silence.UNTAKEN:
            return NotReady(f"worker for app '{app_id}' is not ready")


def timeout_text(limit_s: float) -> str:
    """Return the text of a call that took too long."""
    return f"rpc timeout: no answer within {limit_s:g} s"


Address = tuple[str, str]  # app id, reply list
Entry = tuple[Publisher, Question, Call]


class Outbox:
    """Sends a lone call at once, and from one thread all that wait for an app in one message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting: dict[Address, list[Entry]] = defaultdict(list)
        self._pid = 0
        self._open = 0

    @contextmanager
    def sent(
        self, publisher: Publisher, app_id: str, question: Question, entry: Call
    ) -> Iterator[None]:
        """Queue a call and count it as open inside the block.

        A broker that is away ends its question.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._open = 0
                threading.Thread(target=self._run, name="rpc-outbox", daemon=True).start()
            alone = self._open == 0
            if not alone:
                self._waiting[app_id, question.reply_to].append((publisher, question, entry))
            self._open += 1
        try:
            if alone:
                self._publish((app_id, question.reply_to), [(publisher, question, entry)])
            else:
                self._wake.set()
            yield
        finally:
            with self._lock:
                self._open -= 1

    def _run(self) -> None:
        while True:
            self._wake.wait()
            # A message costs the node as much as many calls in it. So when many calls are open
            # anyway, the next few milliseconds' worth travels together; a lone call never waits.
            if self._open > FEW:
                time.sleep(min(GATHER_MOST_S, self._open * GATHER_PER_CALL_S))
            self._wake.clear()
            while batch := self._take():
                self._publish(*batch)

    def _take(self) -> tuple[Address, list[Entry]] | None:
        with self._lock:
            if not self._waiting:
                return None
            address, entries = next(iter(self._waiting.items()))
            # The app goes to the end of the line, so that a busy one holds up nobody.
            del self._waiting[address]
            if len(entries) > MAX_CALLS:
                self._waiting[address] = entries[MAX_CALLS:]
            return address, entries[:MAX_CALLS]

    @staticmethod
    def _publish(address: Address, batch: list[Entry]) -> None:
        app_id, reply_to = address
        publisher = batch[0][0]
        calls = [entry.fields() for _, _, entry in batch]
        last = max(entry.deadline for _, _, entry in batch)
        try:
            publisher.deliver(CallRPC(app_id, reply_to, calls), expires_s=last - time.time())
        except Exception as exc:
            log.warning("rpc_not_sent", app_id=app_id, reason=str(exc), calls=len(batch))
            for _, waiting, _ in batch:
                waiting.fail(Silence.NO_REDIS)


OUTBOX = Outbox()
