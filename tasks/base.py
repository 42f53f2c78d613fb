"""How a message type becomes a Celery task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import structlog
from celery import Celery, Task

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
    options: dict[str, Any]  # Any: Celery's task options


DEFINITIONS: list[Definition] = []


def task(message: type[Message], **options: Any) -> Callable[[Body], Body]:  # Any: as above
    """Run ``body(platform, **arguments)`` for each message of a type.

    The task's name and queue are the message's. ``AppError`` ends the task and is logged once;
    anything else is a bug and fails the task.
    """

    def decorate(body: Body) -> Body:
        DEFINITIONS.append(Definition(message, body, options))
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

    def run(self: Task, **arguments: Any) -> None:  # Any: JSON values
        known = {key: value for key, value in arguments.items() if key in expected}
        with structlog.contextvars.bound_contextvars(task=name, task_id=self.request.id):
            try:
                definition.body(platform_of(celery), **known)
            except AppError as exc:
                log.warning("task_ended", reason=exc.message, kind=type(exc).__name__)

    options = {"acks_late": True, "ignore_result": True, **definition.options}
    celery.task(run, name=name, bind=True, queue=definition.message.queue, **options)
