"""Deploys, starts, and the remote-control command about workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import structlog
from celery.worker.control import control_command

from app.core.errors import AppError, NotReady
from app.core.platform import Platform
from app.core.replies import Reply
from app.workers import activation
from app.workers import service as workers_service
from app.workers.messages import (
    END_USER,
    FORGET,
    REFRESH,
    STOP,
    ActivateDeployment,
    ControlWorkers,
    StartWorker,
)
from tasks.base import task
from tasks.node import Node, current_node

log = structlog.get_logger(__name__)

RETRY_S = 0.5
DONE = "done"


@task(ActivateDeployment, acks_late=False)
def activate(
    platform: Platform, deployment_id: str, question: str, reply_to: str, give_up_at: float
) -> None:
    """Activate a deployment; while another of the app is under way, come back later."""
    node = current_node()
    node.outgoing.tell(reply_to, question)

    def work() -> dict[str, Any]:  # Any: JSON values
        return activation.activate(platform, node, UUID(deployment_id))

    try:
        answered(node, reply_to, question, work)
    except activation.Busy as exc:
        if time.time() < give_up_at:
            message = ActivateDeployment(deployment_id, question, reply_to, give_up_at)
            platform.publisher.delay(message, delay_s=RETRY_S)
            return
        text = f"another deployment of app '{exc}' is in progress"
        _answer(
            node, reply_to, question, kind=workers_service.error_kind(NotReady(text)), text=text
        )


@task(StartWorker, acks_late=False)
def start(platform: Platform, app_id: str, question: str, reply_to: str) -> None:
    """Start a process of an app here."""
    node = current_node()
    node.outgoing.tell(reply_to, question)

    def work() -> None:
        node.start_app(app_id)
        platform.publisher.publish([ControlWorkers(REFRESH, [app_id])])

    answered(node, reply_to, question, work)


def answered(
    node: Node,
    reply_to: str,
    question: str,
    work: Callable[[], Any],  # Any: a JSON value
) -> None:
    """Answer a question with the result of some work, or with its error."""
    try:
        result = work()
    except AppError as exc:
        log.info("worker_command_refused", reason=exc.message)
        kind = workers_service.error_kind(exc)
        _answer(node, reply_to, question, kind=kind, text=exc.message)
    except activation.Busy:
        raise
    except Exception:
        log.exception("worker_command_failed")
        _answer(node, reply_to, question, kind="failed", text="internal error")
    else:
        _answer(node, reply_to, question, body=json.dumps(result).encode())


def _answer(
    node: Node, reply_to: str, question: str, *, kind: str = DONE, text: str = "", body: bytes = b""
) -> None:
    reply = Reply(question, node.identity, kind, text, body)
    node.outgoing.answer(reply_to, question, lambda: reply)


@control_command(
    name=ControlWorkers.name,
    args=[("action", str), ("subjects", list), ("question", str), ("reply_to", str)],
)
def control_workers(
    _state: Any,  # Any: Celery's worker state
    action: str,
    subjects: list[str],
    question: str = "",
    reply_to: str = "",
) -> dict[str, str]:
    """Carry out a command of the cluster on a thread of the node."""
    node = current_node()

    def work() -> None:
        _carry_out(node, action, subjects)
        if question:
            _answer(node, reply_to, question)

    node.control(work)
    return {"ok": "accepted"}


def _carry_out(node: Node, action: str, subjects: list[str]) -> None:
    if action == STOP:
        for app_id in subjects:
            node.stop_app(app_id)
    elif action == FORGET:
        for app_id in subjects:
            node.forget_app(app_id)
    elif action == REFRESH:
        node.refresh(subjects)
    elif action == END_USER:
        for user_id in subjects:
            node.end_user(UUID(user_id))
