"""From a stored archive to the app's current deployment, on the node that took the message.

Source: REST contract part 30, section 2, steps 3 to 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.errors import AppError, Invalid, NotFound
from app.core.nodes import read_nodes
from app.core.platform import Platform
from app.data import service as data_service
from app.workers import repository
from app.workers import service as workers_service
from app.workers.events import DeploymentActivated
from app.workers.host import DeployHost, Stage
from app.workers.messages import REFRESH, STOP, ControlWorkers
from workers_runtime.archive import inspect_archive

DEPLOY_LOCK = 0x7464  # first key of the session locks that serialise deploys; the second is the app

MIGRATIONS = "migrations"


class Busy(Exception):
    """Another deploy of the app is under way."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment that is about to be activated."""

    id: UUID
    app_id: str
    sha256: str
    entry_point: str | None
    runtime: str | None
    generation: int
    first: bool


def activate(platform: Platform, host: DeployHost, deployment_id: UUID) -> dict[str, Any]:
    """Make a deployment current: migrations, a process beside the old one, the switch.

    Whatever fails, the previous deployment stays current and answering.

    Returns:
        The body of the deploy endpoint's answer.

    Raises:
        Busy: another deploy of the app is under way.
        AppError: with the contract's text.
    """
    app_id = _app_of(platform, deployment_id)
    with _alone(platform.engine, app_id):
        plan = _plan(platform, deployment_id)
        try:
            applied = _migrate(platform, plan)
            _stage(host, plan)
        except AppError as exc:
            _give_up(platform, plan, exc.message)
            raise
        _switch(platform, host, plan)
    started = "" if plan.entry_point is None else " and started"
    return {
        "message": f"app '{app_id}' deployed{started}",
        "migrationsApplied": applied,
        "deploymentId": str(deployment_id),
    }


def _app_of(platform: Platform, deployment_id: UUID) -> str:
    with platform.uow() as uow:
        found = repository.deployment(uow.session, deployment_id)
        if found is None:
            raise NotFound("the deployment is gone")
        return found.app_id


@contextmanager
def _alone(engine: Engine, app_id: str) -> Iterator[None]:
    """Hold the app's deploy lock on a connection of its own, outside any transaction.

    Raises:
        Busy: somebody else holds it.
    """
    keys = (DEPLOY_LOCK, func.hashtext(app_id))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(select(func.pg_try_advisory_lock(*keys))):
            raise Busy(app_id)
        try:
            yield
        finally:
            connection.execute(select(func.pg_advisory_unlock(*keys)))


def _plan(platform: Platform, deployment_id: UUID) -> Plan:
    with platform.uow() as uow:
        found = repository.deployment(uow.session, deployment_id)
        if found is None:
            raise NotFound("the deployment is gone")
        apps_service.require(uow.session, found.app_id)
        wanted = repository.wanted(uow.session, found.app_id)
        return Plan(
            id=found.id,
            app_id=found.app_id,
            sha256=found.sha256,
            entry_point=found.entry_point,
            runtime=found.runtime,
            generation=wanted.generation + 1,
            first=wanted.deployment_id is None,
        )


def _migrate(platform: Platform, plan: Plan) -> list[str]:
    """Run the SQL files of the archive that the app has not run yet."""
    with platform.uow() as uow:
        data = repository.archive(uow.session, plan.id)
    contents = inspect_archive(BytesIO(data or b""), keep=_is_migration)
    found = sorted(filter(_is_migration, contents.files))
    missing = [path for path in found if path not in contents.kept]
    if missing:
        raise Invalid(f"migration '{_file(missing[0])}': larger than 1 MiB")
    return data_service.run_app_migrations(
        platform.uow, plan.app_id, {_file(path): _sql(contents.kept[path], path) for path in found}
    )


def _is_migration(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder == MIGRATIONS and name.endswith(".sql")


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _sql(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise Invalid(f"migration '{_file(path)}': not UTF-8") from exc


def _stage(host: DeployHost, plan: Plan) -> None:
    if plan.entry_point is None or plan.runtime is None:
        return
    host.stage(
        Stage(
            app_id=plan.app_id,
            deployment_id=str(plan.id),
            sha256=plan.sha256,
            entry_point=plan.entry_point,
            runtime=plan.runtime,
            generation=plan.generation,
        )
    )


def _give_up(platform: Platform, plan: Plan, error: str) -> None:
    with platform.uow() as uow:
        repository.drop_deployment(uow.session, plan.id)
        if plan.first:
            repository.set_last_error(uow.session, plan.app_id, error)


def _activated(session: Session, plan: Plan) -> DeploymentActivated:
    found = repository.deployment(session, plan.id)
    return DeploymentActivated(
        app_id=plan.app_id,
        deployment_id=plan.id,
        deployed_by=None if found is None else found.deployed_by,
        open_archive=lambda: BytesIO(repository.archive(session, plan.id) or b""),
    )


def _switch(platform: Platform, host: DeployHost, plan: Plan) -> None:
    """Make the deployment current and hand new calls to its process."""
    runs = plan.entry_point is not None
    try:
        with platform.uow() as uow:
            apps_service.require(uow.session, plan.app_id)
            repository.make_current(uow.session, plan.app_id, plan.id)
            uow.emit(_activated(uow.session, plan))
            workers_service.want(uow, platform, plan.app_id, "running" if runs else "stopped")
    except Exception:
        host.discard(plan.app_id)
        raise
    if runs:
        host.start_app(plan.app_id)
    action = REFRESH if runs else STOP
    if len(read_nodes(platform.redis)) > 1 or not runs:
        platform.publisher.publish([ControlWorkers(action, [plan.app_id])])
