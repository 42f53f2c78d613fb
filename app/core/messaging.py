"""Messages to Celery: declared by slices, published after commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import structlog
from celery import Celery
from kombu.entity import Exchange
from kombu.entity import Queue as KombuQueue
from kombu.exceptions import OperationalError

from app.core.errors import NotReady
from config.settings import Settings

log = structlog.get_logger(__name__)


class Queue(StrEnum):
    """Celery queues; each is consumed by the ``worker`` line of the Procfile."""

    RPC = "rpc"
    JOBS = "jobs"
    CRONS = "crons"
    AGENTS = "agents"
    DEPLOYS = "deploys"
    MAINTENANCE = "maintenance"


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
    """Publishes through a Celery app's connection pool."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages; a broker that is away is logged, never raised."""
        for message in messages:
            try:
                self._send(message)
            except (OperationalError, OSError) as exc:
                log.warning("message_not_published", message=message.name, reason=str(exc))

    def deliver(self, message: Message, *, expires_s: float) -> None:
        """Send a message somebody waits for.

        Raises:
            NotReady: the broker is not reachable.
        """
        try:
            self._send(message, expires=expires_s)
        except (OperationalError, OSError) as exc:
            raise NotReady("service not ready") from exc

    def delay(self, message: Message, *, delay_s: float) -> None:
        """Send a message for later; a broker that is away is logged, never raised."""
        try:
            self._send(message, countdown=delay_s)
        except (OperationalError, OSError) as exc:
            log.warning("message_not_published", message=message.name, reason=str(exc))

    def _send(self, message: Message, **options: float) -> None:
        if isinstance(message, Command):
            self._celery.control.broadcast(message.name, arguments=message.arguments())
            return
        self._celery.send_task(
            message.name,
            kwargs=message.arguments(),
            queue=message.queue,
            ignore_result=True,
            retry=False,
            # Celery would put a preview of the arguments into the headers, and that takes time.
            argsrepr="",
            kwargsrepr="",
            **options,
        )


def _declared(queue: Queue) -> KombuQueue:
    """Return a queue as Celery consumes it.

    A call is never delivered twice, so nothing is gained by having each message of ``rpc``
    acknowledged: that is two round trips and a quarter of the node's work per message.
    """
    name = queue.value
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]  # kombu's own
    return KombuQueue(  # type: ignore[no-untyped-call]  # as above
        name, exchange, routing_key=name, no_ack=queue is Queue.RPC
    )


def make_celery(settings: Settings, *, main: str = "trellis") -> Celery:
    """Return a Celery app on our broker; web processes use it to publish only."""
    celery = Celery(main, set_as_current=False)
    timeout_s = settings.redis.timeout.total_seconds()
    celery.conf.update(
        broker_url=settings.redis.url,
        broker_pool_limit=32,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 2.0,
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            # Without these kombu retries a dead broker for 6 s inside one publish.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
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
