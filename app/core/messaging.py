"""Messages to Celery: declared by slices, published after commit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import structlog
from celery import Celery
from kombu.entity import Exchange
from kombu.entity import Queue as KombuQueue
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from app.core import celery_wire
from app.core.broker import TRANSPORT
from app.core.errors import NotReady
from app.core.wire import Wire
from config.settings import Settings

log = structlog.get_logger(__name__)

AWAY = (RedisError, OperationalError, OSError)
SOCKET_TIMEOUT_S = 2.0


class Queue(StrEnum):
    """Celery queues; each is consumed by the ``worker`` line of the Procfile."""

    RPC = "rpc"
    JOBS = "jobs"
    CRONS = "crons"
    AGENTS = "agents"
    DEPLOYS = "deploys"
    MAINTENANCE = "maintenance"


UNACKNOWLEDGED = frozenset({Queue.RPC, Queue.JOBS})


@dataclass(frozen=True, slots=True)
class Message:
    """Base of messages: a frozen dataclass of JSON scalars, ids first.

    A message only says "look": each points at a row, and each kind of row has a sweep, so a
    lost message delays work and loses nothing.
    """

    name: ClassVar[str]
    queue: ClassVar[Queue]

    def arguments(self) -> dict[str, Any]:  # Any: JSON values
        """Return the keyword arguments of the task."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Command(Message):
    """Base of remote-control commands: they reach every live worker at once, or not at all."""


class Publisher(Protocol):
    """Hands messages to the broker."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages; a broker that is away is logged, never raised."""

    def deliver(self, message: Message, *, expires_s: float) -> None:
        """Send a message somebody waits for.

        Raises:
            NotReady: the broker is not reachable.
        """

    def delay(self, message: Message, *, delay_s: float) -> None:
        """Send a message for later; a broker that is away is logged, never raised."""


class CeleryPublisher:
    """Puts messages on the Redis lists a Celery app consumes."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        options = celery.conf.broker_transport_options
        self._lock = threading.Lock()
        self._wire = Wire(celery.conf.broker_url, timeout_s=options["socket_timeout"])
        self._redis = Redis.from_url(
            celery.conf.broker_url,
            socket_timeout=options["socket_timeout"],
            socket_connect_timeout=options["socket_connect_timeout"],
            socket_keepalive=True,
            # A second attempt could run a call twice. Dead connections are noticed before use.
            retry=Retry(NoBackoff(), 0),
        )

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages; a broker that is away is logged, never raised."""
        for message in messages:
            try:
                self._send(message)
            except AWAY as exc:
                log.warning("message_not_published", message=message.name, reason=str(exc))

    def deliver(self, message: Message, *, expires_s: float) -> None:
        """Send a message somebody waits for.

        Raises:
            NotReady: the broker is not reachable.
        """
        queue = message.queue.value
        element = celery_wire.encode(message.name, queue, message.arguments(), expires_s=expires_s)
        try:
            self._push(queue, element)
        except AWAY as exc:
            raise NotReady("service not ready") from exc

    def delay(self, message: Message, *, delay_s: float) -> None:
        """Send a message for later; a broker that is away is logged, never raised."""
        try:
            self._send(message, delay_s=delay_s)
        except AWAY as exc:
            log.warning("message_not_published", message=message.name, reason=str(exc))

    def _push(self, queue: str, element: str) -> None:
        """Push by the bare connection, or by another: who comes second waits for nobody."""
        if not self._lock.acquire(blocking=False):
            self._redis.lpush(queue, element)
            return
        try:
            self._wire.send(("LPUSH", queue, element))
        finally:
            self._lock.release()

    def _send(self, message: Message, **options: float) -> None:
        if isinstance(message, Command):
            self._celery.control.broadcast(message.name, arguments=message.arguments())
            return
        queue = message.queue.value
        element = celery_wire.encode(message.name, queue, message.arguments(), **options)
        self._redis.lpush(queue, element)


def _declared(queue: Queue) -> KombuQueue:
    """Return a queue as Celery consumes it.

    A call is never delivered twice, and a turn is a hint: nothing is gained by having these
    messages acknowledged, which is two round trips and a quarter of the node's work for each.
    """
    name = queue.value
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]  # kombu's own
    return KombuQueue(  # type: ignore[no-untyped-call]  # as above
        name, exchange, routing_key=name, no_ack=queue in UNACKNOWLEDGED
    )


def make_celery(settings: Settings, *, main: str = "trellis") -> Celery:
    """Return a Celery app on our broker; web processes use it to publish only."""
    # By the names of the schemes, so that logs show the URL as it was given.
    TRANSPORT_ALIASES.update({"redis": TRANSPORT, "rediss": TRANSPORT})
    celery = Celery(main, set_as_current=False)
    timeout_s = settings.redis.timeout.total_seconds()
    celery.conf.update(
        broker_url=settings.redis.url,
        broker_pool_limit=32,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            # Without these kombu retries a dead broker for 6 s inside one publish.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
            # Each priority is one more list to wait for, in every command that waits.
            "priority_steps": [0],
        },
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_queues=[_declared(queue) for queue in Queue],
        task_default_queue=Queue.MAINTENANCE,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        timezone="UTC",
        enable_utc=True,
    )
    return celery
