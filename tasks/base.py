"""How a message type becomes a Celery task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import structlog
from celery import Celery, Task
from kombu.message import Message as Delivered

from app.core.errors import AppError
from app.core.messaging import Message
from app.core.platform import Platform

log = structlog.get_logger(__name__)

Body = Callable[..., None]
PLATFORM = "trellis_platform"


@dataclass(frozen=True, slots=True)
class Definition:
    """A task waiting to be registered on a Celery app."""

    message: type[Message]
    body: Body
    direct: bool
    options: dict[str, Any]  # Any: Celery's task options


DEFINITIONS: list[Definition] = []


def task(
    message: type[Message],
    *,
    direct: bool = False,
    **options: Any,  # Any: as above
) -> Callable[[Body], Body]:
    """Run ``body(platform, **arguments)`` for each message of a type.

    The task's name and queue are the message's. ``AppError`` ends the task and is logged once;
    anything else is a bug and fails the task.

    Args:
        message: the type.
        direct: run the body on the thread that reads messages, without Celery's pool. It must
            hand its work on and return at once; its queue must want no acknowledgement.
        options: Celery's own.
    """

    def decorate(body: Body) -> Body:
        DEFINITIONS.append(Definition(message, body, direct, options))
        return body

    return decorate


def register_all(celery: Celery) -> None:
    """Register every declared task on a Celery app."""
    for definition in DEFINITIONS:
        _register(celery, definition)


def platform_of(celery: Celery) -> Platform:
    """Return the platform of this worker process."""
    platform: Platform = getattr(celery, PLATFORM)
    return platform


def _register(celery: Celery, definition: Definition) -> None:
    name = definition.message.name
    expected = {f.name for f in fields(definition.message)}

    def perform(arguments: dict[str, Any]) -> None:  # Any: JSON values
        known = {key: value for key, value in arguments.items() if key in expected}
        try:
            definition.body(platform_of(celery), **known)
        except AppError as exc:
            log.warning("task_ended", reason=exc.message, kind=type(exc).__name__)

    def run(self: Task, **arguments: Any) -> None:  # Any: as above
        with structlog.contextvars.bound_contextvars(task=name, task_id=self.request.id):
            perform(arguments)

    options = {"acks_late": True, "ignore_result": True, **definition.options}
    if definition.direct:
        options["Strategy"] = _direct(name, perform)
    celery.task(run, name=name, bind=True, queue=definition.message.queue, **options)


def _direct(name: str, perform: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """Return a strategy (what Celery does with a message it has read) that runs a task at once.

    Celery's own makes a request, passes it to the pool and traces it there: half a millisecond.
    """

    def receive(delivered: Delivered, *_rest: Any) -> None:  # Any: Celery's way to acknowledge
        try:
            perform(json.loads(delivered.body)[1])
        except Exception:
            log.exception("task_failed", task=name)

    # Celery makes it an attribute of the task's class.
    return staticmethod(lambda *_celery, **_options: receive)
