"""Deployed code and its processes: wanted states, statuses, start and stop.

Source: REST contract part 30, sections 2 and 3.
"""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.apps.events import AppUninstalled
from app.auth.events import UserDeleted
from app.core.clock import rfc3339
from app.core.errors import AppError, Failed, Invalid, NotFound, NotReady
from app.core.messaging import Queue
from app.core.platform import Platform
from app.core.replies import NoAnswer, Reply
from app.core.uow import UnitOfWork
from app.secrets import service as secrets_service
from app.secrets.events import PlatformSecretChanged
from app.workers import repository
from app.workers.host import CallOutcome, Conversation, OutcomeKind, WorkerHost
from app.workers.messages import END_USER, FORGET, REFRESH, STOP, ControlWorkers, StartWorker
from app.workers.models import WorkerInstance
from app.workers.repository import Wanted
from config.settings import JobSettings

__all__ = ["CallOutcome", "Conversation", "OutcomeKind", "WorkerHost", "runnable"]

NO_HOST: Final = "no worker host available"
STOP_TIMEOUT_S: Final = 20.0
ABANDONED_AFTER_S: Final = 86400.0
ORDER: Final = ("running", "starting", "stopping", "crashed", "stopped")
ERROR_KINDS: Final = {
    "invalid": Invalid,
    "not_found": NotFound,
    "not_ready": NotReady,
    "failed": Failed,
}


def runnable(session: Session, app_id: str) -> bool:
    """Tell whether an app's calls may be handed to a node: code, wanted running, not cooling."""
    return repository.runnable(session, app_id)


def wanted(session: Session, app_id: str) -> Wanted:
    """Return what Postgres wants of an app's worker."""
    return repository.wanted(session, app_id)


# --- statuses --------------------------------------------------------------------------------


def status(session: Session, app_id: str) -> dict[str, Any]:  # Any: JSON values
    """Return an app's worker status: the best over its live nodes.

    Raises:
        NotFound: the app is not installed.
    """
    apps_service.require(session, app_id)
    found = repository.wanted(session, app_id)
    rows = repository.instances(session, app_id)
    best = min(rows, key=_rank, default=None)
    started = None if best is None or best.started_at is None else rfc3339(best.started_at)
    error = best.last_error if best is not None and best.last_error else found.last_error
    return {
        "app_id": app_id,
        "status": _status(found, rows),
        "desired": found.desired,
        "deployment_id": None if found.deployment_id is None else str(found.deployment_id),
        "started_at": started,
        "restarts": 0 if best is None else best.restarts,
        "last_error": error,
        "sandbox": None if best is None else best.sandbox,
    }


def statuses(session: Session) -> dict[str, str]:
    """Return the status of every app with deployed code."""
    rows: dict[str, list[WorkerInstance]] = {}
    for row in repository.instances(session):
        rows.setdefault(row.app_id, []).append(row)
    return {
        found.app_id: _status(found, rows.get(found.app_id, []))
        for found in repository.deployed(session)
    }


def _status(found: Wanted, rows: list[WorkerInstance]) -> str:
    best = min((row.status for row in rows), key=ORDER.index, default="stopped")
    if best == "stopped" and found.should_run:
        return "crashed" if found.last_error else "starting"
    return best


def _rank(row: WorkerInstance) -> int:
    return ORDER.index(row.status)


# --- start and stop --------------------------------------------------------------------------


def start(platform: Platform, app_id: str) -> None:
    """Have a process of an app running somewhere; returns after its handshake.

    Raises:
        NotFound: the app is not installed.
        Invalid: nothing is deployed.
        Failed: it did not start.
        NotReady: no node is alive.
    """
    with platform.uow() as uow:
        apps_service.require(uow.session, app_id)
        found = repository.wanted(uow.session, app_id)
        if not found.has_code:
            raise Invalid(f"no worker code deployed for app '{app_id}'")
        running = any(r.status == "running" for r in repository.instances(uow.session, app_id))
        if found.should_run and running:
            return
    require_node(platform)
    with platform.uow() as uow:
        want(uow, platform, app_id, "running")
    limit_s = 2 * platform.settings.workers.handshake_timeout.total_seconds()
    limit_s += platform.settings.workers.deploy_install_timeout.total_seconds()
    with platform.replies.ask(Queue.DEPLOYS) as question:
        message = StartWorker(app_id, question.id, question.reply_to)
        platform.publisher.deliver(message, expires_s=limit_s)
        answer_of(question.wait, limit_s)


def stop(platform: Platform, app_id: str) -> None:
    """Have no process of an app anywhere; returns when all are gone.

    Raises:
        NotFound: the app is not installed.
        NotReady: the nodes could not be told; they will see it in Postgres.
    """
    with platform.uow() as uow:
        apps_service.require(uow.session, app_id)
        if repository.wanted(uow.session, app_id).generation:
            repository.set_desired(uow.session, app_id, "stopped")
    tell_all(platform, STOP, [app_id])


def tell_all(platform: Platform, action: str, subjects: list[str]) -> None:
    """Have every live node do something and wait until each has.

    Raises:
        NotReady: Redis is away, or a node did not answer.
    """
    with platform.replies.ask(Queue.DEPLOYS, platform.replies.live_nodes()) as question:
        command = ControlWorkers(action, subjects, question.id, question.reply_to)
        platform.publisher.publish([command])
        try:
            question.wait_all(time.monotonic() + STOP_TIMEOUT_S)
        except NoAnswer as exc:
            raise NotReady("service not ready") from exc


def want(uow: UnitOfWork, platform: Platform, app_id: str, desired: str) -> int:
    """Set what is wanted of an app and fix the secrets its processes get.

    Returns:
        The app's new generation.
    """
    generation = repository.set_desired(uow.session, app_id, desired)
    secrets_service.freeze(uow.session, platform.cipher, app_id)
    return generation


def require_node(platform: Platform) -> None:
    """Raise ``NotReady`` unless a node is alive."""
    if not platform.replies.live_nodes():
        raise NotReady(NO_HOST)


def answer_of(wait: Any, limit_s: float) -> Reply:  # Any: ``Question.wait``
    """Return the answer of a node to a deploy or start.

    Raises:
        AppError: the node's own error.
        NotReady: no node answered.
    """
    try:
        reply: Reply = wait(time.monotonic() + limit_s)
    except NoAnswer as exc:
        raise NotReady(NO_HOST) from exc
    kind = ERROR_KINDS.get(reply.kind)
    if kind is not None:
        raise kind(reply.text)
    return reply


def error_kind(error: AppError) -> str:
    """Return the name under which an error travels in a reply."""
    for name, kind in ERROR_KINDS.items():
        if isinstance(error, kind):
            return name
    return "failed"


# --- subscribers -----------------------------------------------------------------------------


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Stop the processes of an app that was uninstalled and delete its deployments."""
    repository.forget(uow.session, event.app_id)
    uow.send_after_commit(ControlWorkers(FORGET, [event.app_id]))


def restart_for_secret(uow: UnitOfWork, event: PlatformSecretChanged) -> None:
    """Restart every app that has a running process, with the new secrets."""
    apps = repository.raise_generations_of_running(uow.session)
    event.restarting.update(apps)
    uow.send_after_commit(ControlWorkers(REFRESH, apps))


def end_calls_of_user(uow: UnitOfWork, event: UserDeleted) -> None:
    """End the open calls of a user who is gone."""
    uow.send_after_commit(ControlWorkers(END_USER, [str(event.user_id)]))


def prune(uow: UnitOfWork, _jobs: JobSettings) -> int:
    """Delete deployments that a node or web process left half-way when it died."""
    return repository.drop_abandoned(uow.session, ABANDONED_AFTER_S)


def last_error(uow: UnitOfWork, app_id: str, error: str) -> None:
    """Remember why an app has no process."""
    repository.set_last_error(uow.session, app_id, error)
