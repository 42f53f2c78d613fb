"""Hooks on entities: kept here, fired by a trigger in the transaction of each change.

Source: REST contract part 20, sections 3.8 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.agents import service as agents_service
from app.agents.events import AgentRegistered
from app.apps.events import AppInstalled, AppUninstalled
from app.core.actor import Actor
from app.core.errors import Invalid, NotFound, missing_permission
from app.core.ids import check_app_id, parse_uuid
from app.core.uow import UnitOfWork
from app.data import service as data_service
from app.data.errors import no_entity
from app.data.events import WatchedRecordsChanged
from app.hooks import repository
from app.hooks.models import Hook
from app.jobs import service as jobs_service
from app.rbac import acting

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
ACTION_TYPES = ("job", "agent")
REQUIRED = ("entity", "operation", "action_type")


def list_hooks(
    session: Session, app_id: str, *, entity: str | None = None, operation: str | None = None
) -> list[Hook]:
    """Return the hooks that watch an app, newest first.

    Args:
        session: the session.
        app_id: the watched app; an unknown one has no hooks.
        entity: only hooks on this entity.
        operation: only hooks on this operation, in any case.
    """
    check_app_id(app_id)
    return repository.listed(session, app_id, entity=entity, operation=operation)


def create(uow: UnitOfWork, actor: Actor, *, app_id: str, body: Mapping[str, Any]) -> Hook:
    """Store a hook of the actor, or of a principal the actor may act for; equal hooks all fire.

    Args:
        uow: the unit of work.
        actor: becomes the owner, in whose name the jobs run, unless ``runAs`` names another.
        app_id: the watched app.
        body: ``entity``, ``operation``, ``action_type``, ``action_config``, ``runAs``.

    Raises:
        NotFound: no such entity.
        Invalid: a field is missing or wrong.
        Forbidden: the actor may not act for that owner.
    """
    check_app_id(app_id)
    owner = acting.owner_of_work(uow.session, actor, body.get("runAs"), field="runAs")
    values = _checked(app_id, body)
    if not data_service.entity_exists(uow.session, app_id, values["entity"]):
        raise no_entity(app_id, values["entity"])
    hook = repository.add(uow.session, app_id=app_id, created_by=owner, **values)
    _delegate(uow, hook)
    data_service.mark_hooked(uow, app_id, hooked=True)
    return hook


def _checked(app_id: str, body: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
    for name in REQUIRED:
        if body.get(name) is None:
            raise Invalid(f"'{name}' is required")
    if not isinstance(body["entity"], str):
        raise Invalid("'entity' must be a string")
    operation = body["operation"].upper() if isinstance(body["operation"], str) else ""
    if operation not in OPERATIONS:
        raise Invalid("operation must be INSERT, UPDATE or DELETE")
    if body["action_type"] not in ACTION_TYPES:
        raise Invalid("action_type must be 'job' or 'agent'")
    config = {} if body.get("action_config") is None else body["action_config"]
    if not isinstance(config, dict):
        raise Invalid("action_config must be an object")
    if body["action_type"] == "agent":
        config = {"app_id": app_id, **config}
        if not isinstance(config["app_id"], str):
            raise Invalid("'action_config.app_id' must be a string")
    return {
        "entity": body["entity"],
        "operation": operation,
        "action_type": body["action_type"],
        "action_config": config,
    }


def get(session: Session, *, app_id: str, hook_id: str) -> Hook:
    """Return a hook.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: no such hook on this app.
    """
    check_app_id(app_id)
    hook = repository.find(session, app_id, parse_uuid(hook_id))
    if hook is None:
        raise NotFound(f"no hook '{hook_id}'")
    return hook


def delete(uow: UnitOfWork, *, app_id: str, hook_id: str) -> None:
    """Delete a hook; jobs it has queued stay.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: no such hook on this app.
    """
    repository.remove(uow.session, get(uow.session, app_id=app_id, hook_id=hook_id))
    agents_service.revoke(uow, trigger_type="hook", trigger_id=hook_id.lower())
    _remember_whether_watched(uow, app_id)


def sync_trigger(uow: UnitOfWork, event: AppInstalled) -> None:
    """Replace the hooks an app's manifest made by those of its ``trigger``.

    Raises:
        Forbidden: the installer may not read the entity the trigger watches.
    """
    before = repository.remove_made_by(uow.session, event.app_id)
    trigger = event.manifest.get("trigger")
    if trigger is not None:
        _make_trigger_hooks(uow, event.app_id, trigger, event.actor)
        before.append(trigger["appId"])
    for app_id in {event.app_id, *before}:
        _remember_whether_watched(uow, app_id)


def _make_trigger_hooks(
    uow: UnitOfWork, app_id: str, trigger: Mapping[str, Any], actor: Actor
) -> None:  # Any: JSON values
    key = f"app:{trigger['appId']}:{trigger['entity']}.read"
    if not actor.can(key) and not actor.can("admin:apps.install"):
        raise missing_permission(key)
    for operation in trigger["on"]:
        hook = repository.add(
            uow.session,
            app_id=trigger["appId"],
            entity=trigger["entity"],
            operation=operation.upper(),
            action_type="agent",
            action_config={"app_id": app_id},
            created_by=actor.user_id,
            made_by_app=app_id,
        )
        _delegate(uow, hook)


def _delegate(uow: UnitOfWork, hook: Hook) -> None:
    """Let a hook run the agent it names in its owner's name."""
    if hook.action_type == "agent" and hook.created_by is not None:
        agents_service.delegate(
            uow,
            delegator_id=hook.created_by,
            app_id=hook.action_config["app_id"],
            trigger_type="hook",
            trigger_id=str(hook.id),
        )


def delegate_again(uow: UnitOfWork, event: AgentRegistered) -> None:
    """Let the hooks that name an agent run it once it is there (again)."""
    for hook in repository.naming_agent(uow.session, event.app_id):
        _delegate(uow, hook)


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete the hooks on an app and those its manifest placed on others."""
    repository.remove_of(uow.session, event.app_id)
    for app_id in set(repository.remove_made_by(uow.session, event.app_id)):
        _remember_whether_watched(uow, app_id)


def wake(uow: UnitOfWork, event: WatchedRecordsChanged) -> None:
    """Give the app a turn after the commit: its hooks may have queued jobs."""
    jobs_service.wake(uow, event.app_id)


def _remember_whether_watched(uow: UnitOfWork, app_id: str) -> None:
    hooked = repository.watched(uow.session, app_id)
    data_service.mark_hooked(uow, app_id, hooked=hooked)
