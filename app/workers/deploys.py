"""Deploy: check an uploaded archive, store it, and have a node activate it.

Source: REST contract part 30, section 2.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import IO, Any, BinaryIO, Final, cast
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.actor import Actor
from app.core.clock import rfc3339
from app.core.errors import AppError, Invalid, NotFound
from app.core.messaging import Queue
from app.core.platform import Platform
from app.workers import repository
from app.workers import service as workers_service
from app.workers.events import DeploymentReceived
from app.workers.messages import ActivateDeployment
from workers_runtime.archive import (
    NO_ENTRY_POINT,
    ArchiveContents,
    ArchiveError,
    inspect_archive,
    runtime_of,
)

LOCK_WAIT_S: Final = 120.0
START_MARGIN_S: Final = 30.0
AGENT_FILES: Final = ("agent.json", "backend/agent.json")


def deploy(
    platform: Platform, actor: Actor, *, app_id: str, archive: IO[bytes]
) -> dict[str, Any]:  # Any: the endpoint's answer
    """Check and store an archive, activate it, and return once its process answers.

    Args:
        platform: the process's platform.
        actor: who deploys.
        app_id: an installed app.
        archive: a seekable file holding the uploaded bytes, at least one.

    Raises:
        Invalid: the archive breaks a rule, or a migration of it fails.
        NotFound: the app is not installed.
        Failed: its dependencies cannot be installed or it does not start.
        NotReady: no node is alive, or another deploy of the app is in progress.
    """
    contents = _inspect(archive)
    with platform.uow() as uow:
        apps_service.require(uow.session, app_id)
        uow.emit(DeploymentReceived(app_id, cast(BinaryIO, archive), actor))
    workers_service.require_node(platform)
    deployment_id = _store(platform, actor, app_id, archive, contents)
    return _activate(platform, app_id, deployment_id)


def activate_again(platform: Platform, *, app_id: str, deployment_id: UUID) -> dict[str, Any]:
    """Make a kept deployment current again.

    Raises:
        NotFound: no such app, or no such deployment of it.
    """
    with platform.uow() as uow:
        apps_service.require(uow.session, app_id)
        found = repository.deployment(uow.session, deployment_id)
        if found is None or found.app_id != app_id or found.activated_at is None:
            raise NotFound(f"deployment '{deployment_id}' not found")
    workers_service.require_node(platform)
    return _activate(platform, app_id, deployment_id)


def kept(session: Session, app_id: str) -> list[dict[str, Any]]:  # Any: JSON values
    """Return an app's kept deployments, newest first."""
    apps_service.require(session, app_id)
    return [
        {
            "id": str(row.id),
            "current": row.is_current,
            "runtime": row.runtime,
            "entryPoint": row.entry_point,
            "sha256": row.sha256,
            "sizeBytes": row.size_bytes,
            "deployedBy": None if row.deployed_by is None else str(row.deployed_by),
            "createdAt": rfc3339(row.created_at),
        }
        for row in repository.deployments(session, app_id)
    ]


def _inspect(archive: IO[bytes]) -> ArchiveContents:
    try:
        contents = inspect_archive(cast(BinaryIO, archive), keep=lambda path: path in AGENT_FILES)
    except ArchiveError as exc:
        raise Invalid(str(exc)) from exc
    if contents.entry_point is None and not any(name in contents.files for name in AGENT_FILES):
        raise Invalid(NO_ENTRY_POINT)
    return contents


def _store(
    platform: Platform, actor: Actor, app_id: str, archive: IO[bytes], contents: ArchiveContents
) -> UUID:
    archive.seek(0)
    data = archive.read()
    deployment_id = uuid4()
    entry_point = contents.entry_point
    with platform.uow() as uow:
        repository.add_deployment(
            uow.session,
            id=deployment_id,
            app_id=app_id,
            archive=data,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            entry_point=entry_point,
            runtime=None if entry_point is None else runtime_of(entry_point),
            deployed_by=actor.user_id,
        )
    return deployment_id


def _activate(platform: Platform, app_id: str, deployment_id: UUID) -> dict[str, Any]:
    workers = platform.settings.workers
    limit_s = LOCK_WAIT_S + workers.deploy_install_timeout.total_seconds() + START_MARGIN_S
    try:
        with platform.replies.ask(Queue.DEPLOYS) as question:
            message = ActivateDeployment(
                str(deployment_id), question.id, question.reply_to, time.time() + LOCK_WAIT_S
            )
            platform.publisher.deliver(message, expires_s=limit_s)
            reply = workers_service.answer_of(question.wait, limit_s)
    except AppError:
        with platform.uow() as uow:
            repository.drop_deployment(uow.session, deployment_id)
        raise
    answer: dict[str, Any] = json.loads(reply.body)
    return answer
