"""Installing, listing and removing apps.

Source: REST contract part 20, sections 2 and 4.7.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.apps import keys, manifest, repository, shares
from app.apps.events import AppInstalled, AppUninstalled
from app.apps.models import App
from app.core.actor import Actor
from app.core.errors import Failed, Invalid, NotFound, missing_permission
from app.core.ids import check_app_id, is_identifier
from app.core.locks import lock_app
from app.core.uow import UnitOfWork
from app.data import service as data_service
from app.rbac import service as rbac_service

# Shares and public RPCs are used by the slice that calls app code.
open_rpc = shares.open_rpc
rpc_scope = shares.rpc_scope
check_share = shares.check
is_share_token = shares.is_token
share_actor = shares.actor_of

log = structlog.get_logger(__name__)

# Condition of an SQL statement: these apps are installed (parameter ``apps``, text[]).
ALL_INSTALLED = repository.ALL_INSTALLED
INSTALL = "admin:apps.install"
CREATE = "platform:apps.create"
DIRECTORIES = ("apps", "frontends", "uploads")


@dataclass(frozen=True, slots=True)
class AppSummary:
    """An app in a list."""

    id: str
    name: str
    version: str
    status: str
    type: str
    entities: list[str]
    has_frontend: bool
    icon: str | None


@dataclass(frozen=True, slots=True)
class AppDetail:
    """One app with its stored data contract."""

    id: str
    name: str
    version: str
    status: str
    data_contract: list[dict[str, Any]]  # Any: JSON values
    icon: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """What an install would change."""

    compliant: bool
    changes: list[data_service.Change]


def require(session: Session, app_id: str) -> App:
    """Return an installed app.

    Raises:
        Forbidden: the id is a schema that is off limits.
        NotFound: there is no such app.
    """
    check_app_id(app_id)
    found = repository.find(session, app_id) if is_identifier(app_id) else None
    if found is None:
        raise NotFound(f"no app '{app_id}'")
    return found


def exists(session: Session, app_id: str) -> bool:
    """Tell whether an app is installed."""
    return is_identifier(app_id) and repository.exists(session, app_id)


def manifest_of(session: Session, app_id: str) -> dict[str, Any]:  # Any: JSON values
    """Return the normalised manifest of an installed app.

    Raises:
        NotFound: there is no such app.
    """
    found = repository.manifest(session, app_id)
    if found is None:
        raise NotFound(f"no app '{app_id}'")
    return found


def manifests(session: Session, app_type: str) -> list[dict[str, Any]]:  # Any: JSON values
    """Return the manifests of the installed apps whose manifest declares a type, by name."""
    return repository.manifests(session, app_type)


def has_agent(session: Session, app_id: str) -> bool:
    """Tell whether an agent is registered for the app."""
    return repository.has_agent(session, app_id)


def mark_agent(uow: UnitOfWork, app_id: str, *, registered: bool) -> None:
    """Remember whether an agent is registered for the app."""
    repository.change(uow.session, app_id, {"has_agent": registered})


def mark_frontend(uow: UnitOfWork, app_id: str, *, deployed: bool) -> None:
    """Remember whether a frontend with an index page is deployed."""
    repository.change(uow.session, app_id, {"has_frontend": deployed})


def icon_of(session: Session, app_id: str) -> UUID | None:
    """Return the id of an installed app's icon file.

    Raises:
        Forbidden: the id is a schema that is off limits.
    """
    check_app_id(app_id)
    found = repository.find(session, app_id) if is_identifier(app_id) else None
    return None if found is None else found.icon


def replace_icon(uow: UnitOfWork, app_id: str, file_id: UUID) -> UUID | None:
    """Point an app to its icon file; return the former one."""
    former = icon_of(uow.session, app_id)
    repository.change(uow.session, app_id, {"icon": file_id})
    return former


def list_apps(session: Session, *, app_type: str | None = None) -> list[AppSummary]:
    """Return the installed apps by name.

    Args:
        session: the session.
        app_type: only apps of this type; an unknown type filters nothing.
    """
    wanted = app_type if app_type in manifest.TYPES else None
    found = [_summary(app) for app in repository.all_installed(session)]
    return [app for app in found if wanted is None or app.type == wanted]


def _summary(app: App) -> AppSummary:
    declared = app.manifest["type"]
    return AppSummary(
        id=app.id,
        name=app.name,
        version=app.version,
        status=app.status,
        type="agent" if app.has_agent else declared,
        entities=[entity["entityName"] for entity in app.manifest["dataContract"]],
        has_frontend=app.has_frontend,
        icon=str(app.icon) if app.icon else None,
    )


def detail(session: Session, app_id: str) -> AppDetail:
    """Return one app.

    Raises:
        NotFound: there is no such app.
    """
    app = require(session, app_id)
    return AppDetail(
        id=app.id,
        name=app.name,
        version=app.version,
        status=app.status,
        data_contract=app.manifest["dataContract"],
        icon=str(app.icon) if app.icon else None,
    )


def install(uow: UnitOfWork, actor: Actor, body: Any) -> str:  # Any: a JSON value
    """Install or update an app from its manifest.

    Idempotent. Locks: the app, then the tables that change.

    Returns:
        The app id.

    Raises:
        Invalid: the manifest breaks a rule.
        Forbidden: the actor may not install this app.
        Conflict: rows present forbid the change of a table.
    """
    app_id = manifest.app_id_of(body)
    lock_app(uow.session, app_id)
    becomes_admin = _may_install(uow, actor, app_id)
    normalised = manifest.normalise(body)
    if becomes_admin and actor.user_id is not None:
        rbac_service.make_admin(uow, actor.user_id)
    data_service.apply_contract(
        uow, app_id, normalised["dataContract"], manifest.public_actions(normalised)
    )
    repository.put(uow.session, app_id, normalised)
    rbac_service.replace_app_keys(uow, app_id, keys.of_manifest(normalised))
    if actor.user_id is not None:
        rbac_service.grant_app_admin(uow, app_id, actor.user_id)
    uow.emit(AppInstalled(app_id, normalised, actor))
    log.info("app_installed", app_id=app_id, version=normalised["version"])
    return app_id


def _may_install(uow: UnitOfWork, actor: Actor, app_id: str) -> bool:
    """Check the gate of an install; tell whether the installer becomes administrator."""
    key = f"app:{app_id}:*" if repository.exists(uow.session, app_id) else CREATE
    if actor.can(INSTALL) or actor.can(key):
        return False
    if rbac_service.no_human_holds_a_role(uow):
        return True
    raise missing_permission(INSTALL)


def verify(session: Session, body: Any) -> Drift:  # Any: a JSON value
    """Return what installing a manifest would change in the tables, changing nothing.

    Raises:
        Invalid: the manifest breaks a rule.
    """
    app_id = manifest.app_id_of(body)
    normalised = manifest.normalise(body)
    changes = data_service.drift(session, app_id, normalised["dataContract"])
    return Drift(compliant=not changes, changes=changes)


def uninstall(uow: UnitOfWork, app_id: str) -> None:
    """Remove an app with its tables, keys and roles; other areas clean up after the event.

    Idempotent: an app that is not installed is fine.

    Raises:
        Invalid: the id is reserved.
    """
    if manifest.is_reserved(app_id):
        raise Invalid(f"app id '{app_id}' is reserved")
    if not is_identifier(app_id):
        return
    lock_app(uow.session, app_id)
    if not repository.exists(uow.session, app_id):
        return
    uow.emit(AppUninstalled(app_id))
    data_service.remove_app(uow, app_id)
    rbac_service.remove_app(uow, app_id)
    repository.remove(uow.session, app_id)
    log.info("app_uninstalled", app_id=app_id)


def remove_directories(data_dir: Path, app_id: str) -> None:
    """Delete what an uninstalled app left on disk. Idempotent.

    Raises:
        Failed: a directory resists; calling again is safe.
    """
    if not is_identifier(app_id):
        return
    for name in DIRECTORIES:
        path = data_dir / name / app_id
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            log.warning("app_directory_not_removed", app_id=app_id, reason=str(exc))
            raise Failed(f"app removed, but files could not be deleted: {path}") from exc
