"""Live events of runs: written by the worker, followed by any number of readers.

A Redis stream per run carries everything; the table ``agent_events`` keeps all but text deltas.

Source: REST contract part 40, sections 1.6 and 1.7.
"""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import UUID

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.agents.models import AgentEvent
from app.core.platform import Platform
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

FLEET = "agent:fleet"
MAX_ENTRIES = 20_000
TERMINAL = frozenset({"done", "error"})
TTL_S = 3600
IDLE_TTL_S = 3 * 86_400
SEQ_GAP = 1000


def key(run_id: UUID | str) -> str:
    """Return the name of a run's Redis stream."""
    return f"agent:run:{run_id}"


def run_of(name: str) -> UUID:
    """Return the run of a Redis stream."""
    return UUID(name.rpartition(":")[2])


class RunStream:
    """The writing end of one run's events. Thread-safe.

    Args:
        platform: the process's platform.
        run_id: the run.
        app_id: its agent.
        session_id: its session, part of every event.
        seq: number of the last event.
        parent: where a sub-agent's text and approvals are shown as well.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        run_id: UUID,
        app_id: str,
        session_id: UUID,
        seq: int,
        parent: RunStream | None = None,
    ) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self.run_id = run_id
        self.app_id = app_id
        self.session_id = session_id
        self.seq = seq
        self.parent = parent

    def chunk(self, delta: str) -> None:
        """Stream a piece of text; it is not stored."""
        self._send("chunk", {"delta": delta})
        if self.parent is not None:
            self.parent.sub_agent_chunk(self.app_id, delta)

    def sub_agent_chunk(self, child: str, delta: str) -> None:
        """Stream a piece of a sub-agent's text; it is not stored."""
        self._send("sub_agent_chunk", {"app_id": child, "delta": delta})

    def event(self, uow: UnitOfWork, kind: str, data: JSONObject) -> None:
        """Store an event with the transaction that causes it; stream it after the commit."""
        with self._lock:
            self.seq += 1
            seq = self.seq
        full = {**data, "session_id": str(self.session_id)}
        uow.session.add(AgentEvent(run_id=self.run_id, seq=seq, type=kind, data=full))
        uow.after_commit(lambda: self._publish(seq, kind, full))
        if kind == "approval_required" and self.parent is not None:
            self.parent.event(uow, kind, data)

    def _send(self, kind: str, data: JSONObject) -> None:
        with self._lock:
            self.seq += 1
            seq = self.seq
        self._publish(seq, kind, {**data, "session_id": str(self.session_id)})

    def _publish(self, seq: int, kind: str, data: JSONObject) -> None:
        publish(
            self._platform.redis,
            run_id=self.run_id,
            app_id=self.app_id,
            seq=seq,
            kind=kind,
            data=data,
        )


def publish(
    redis: Redis, *, run_id: UUID, app_id: str, seq: int, kind: str, data: JSONObject
) -> None:
    """Append an event to the run's stream and tell the fleet; Redis away is only logged."""
    name = key(run_id)
    fleet = dict(data)
    if kind == "sub_agent_chunk":
        fleet["sub_app_id"] = fleet.pop("app_id")
    fleet |= {"app_id": app_id, "run_id": str(run_id), "_event": kind}
    try:
        with redis.pipeline(transaction=False) as pipe:
            entry: Any = {"seq": seq, "type": kind, "data": _compact(data)}  # Any: redis-py's dict
            pipe.xadd(name, entry, maxlen=MAX_ENTRIES, approximate=True)
            pipe.expire(name, TTL_S if kind in TERMINAL else IDLE_TTL_S)
            pipe.publish(FLEET, _compact(fleet))
            pipe.execute()
    except (RedisError, OSError) as exc:
        log.warning("agent_event_not_streamed", run_id=str(run_id), reason=type(exc).__name__)


def _compact(value: Any) -> str:  # Any: a JSON value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def last_streamed(redis: Redis, run_id: UUID) -> int | None:
    """Return the number of the newest streamed event; None when the stream is gone."""
    try:
        newest: Any = redis.xrevrange(key(run_id), count=1)  # Any: redis-py's union
    except (RedisError, OSError):
        return None
    return int(newest[0][1]["seq"]) if newest else None


def streamed_text(redis: Redis, run_id: UUID) -> str | None:
    """Return the text streamed so far; None when the stream is gone or was cut."""
    try:
        entries: Any = redis.xrange(key(run_id))  # Any: redis-py's union
    except (RedisError, OSError):
        return None
    if not entries or int(entries[0][1]["seq"]) != 1:
        return None
    chunks = (fields["data"] for _, fields in entries if fields["type"] == "chunk")
    return "".join(json.loads(data)["delta"] for data in chunks)


def next_start(redis: Redis, run_id: UUID, stored: int) -> int:
    """Return a number no event of the run has passed, for a worker that takes it over."""
    streamed = last_streamed(redis, run_id)
    if streamed is None:
        # The lost stream may have held text events with higher numbers than the table knows.
        return stored if stored == 0 else stored + SEQ_GAP
    return max(stored, streamed)
