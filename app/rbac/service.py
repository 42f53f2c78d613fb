"""Who may do what: resolution, roles, assignments, registered keys.

Every change of a role or an assignment moves the stamp of the authority tables (a trigger does),
which is what makes it act on the next request of every process.

Source: REST contract part 10, sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import security
from app.audit.security import SecurityEventKind as Event
from app.auth import service as auth_service
from app.core.actor import Actor, Kind
from app.core.errors import Invalid, NotFound
from app.core.ids import SYSTEM_USER_ID
from app.core.locks import AdvisoryLock, lock
from app.core.permissions import Permissions
from app.core.uow import UnitOfWork
from app.rbac import repository, rules
from app.rbac.cache import PermissionCache
from app.rbac.repository import ADMIN

BASE = "base"
# Condition of an SQL statement: these principals are enabled (parameter ``principals``, uuid[])
# and no authority has changed since any of these stamps was read (``stamps``, uuid[]).
UNCHANGED = repository.UNCHANGED
_cache = PermissionCache()


@dataclass(frozen=True, slots=True)
class RoleView:
    """A role as the API shows it."""

    name: str
    description: str | None
    inherits: list[str]
    permissions: list[str]


@dataclass(frozen=True, slots=True)
class AssignmentView:
    """A principal holds a role."""

    user_id: UUID
    role: str
    assigned_at: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """Roles (inherited ones included) and keys of a principal, sorted."""

    roles: list[str]
    permissions: list[str]


@dataclass(frozen=True, slots=True)
class KeyView:
    """A registered key."""

    key: str
    description: str


def load_actor(session: Session, user_id: UUID) -> Actor | None:
    """Return a principal with the permissions it has now.

    One small statement on the hot path; a second one after any change of authority.

    Returns:
        None when the principal is gone, disabled or the internal system user.
    """
    if user_id == SYSTEM_USER_ID:
        return None
    found = repository.principal(session, user_id)
    if found is None:
        return None
    permissions, stamp = _cache.get(found.stamp, user_id), found.stamp
    if permissions is None:
        resolved = repository.resolve(session, user_id)
        permissions, stamp = Permissions(resolved.permissions), resolved.stamp
        _cache.put(stamp, user_id, permissions)
    return Actor(
        user_id=user_id,
        email=found.email,
        kind=Kind(found.kind),
        permissions=permissions,
        stamp=stamp,
    )


def recall(user_id: UUID) -> Actor | None:
    """Return a principal with the permissions this process last saw, without a question.

    Good only for a statement that does nothing unless ``UNCHANGED`` holds. Neither e-mail nor
    kind are known.
    """
    found = _cache.latest(user_id)
    return None if found is None else Actor(user_id, permissions=found[1], stamp=found[0])


def authority_of(session: Session, user_id: UUID) -> Authority:
    """Return what a principal holds, wildcards not expanded; empty for an unknown one."""
    resolved = repository.resolve(session, user_id)
    return Authority(sorted(resolved.roles), sorted(resolved.permissions))


def list_roles(session: Session) -> list[RoleView]:
    """Return all roles by name."""
    return [
        RoleView(role.name, role.description, role.inherits, role.permissions)
        for role in repository.roles(session)
    ]


def create_role(
    uow: UnitOfWork,
    actor: Actor,
    *,
    name: str,
    description: str | None = None,
    inherits: list[str] | None = None,
    permissions: list[str] | None = None,
) -> None:
    """Add a role.

    Raises:
        Invalid: the name, a key or the inheritance breaks a rule, or the name is taken.

    Locks: the role graph, so that two changes cannot close a cycle together.
    """
    actor.require_admin()
    rules.check_role_name(name)
    rules.check_keys(permissions or [])
    lock(uow.session, AdvisoryLock.ROLE_GRAPH)
    rules.check_no_cycle(repository.parents(uow.session), name, inherits or [])
    added = repository.add_role(
        uow.session,
        name,
        description=description,
        inherits=inherits or [],
        permissions=permissions or [],
    )
    if not added:
        raise Invalid(f"role '{name}' already exists")
    _record(
        uow,
        Event.ROLE_CREATED,
        actor,
        role=name,
        inherits=inherits or [],
        permissions=permissions or [],
    )


def update_role(uow: UnitOfWork, actor: Actor, *, name: str, changes: Mapping[str, Any]) -> None:
    """Change description, parents or keys of a role; acts on all holders at once.

    Args:
        uow: the open unit of work.
        actor: an administrator.
        name: the role.
        changes: any of ``description``, ``inherits``, ``permissions``; a list replaces the
            stored one, an empty description clears it.

    Raises:
        NotFound: no such role.
        Invalid: nothing to change, a rule is broken, or the role is fixed.

    Locks: the role graph.
    """
    actor.require_admin()
    values = dict(changes)
    if not values:
        raise Invalid("nothing to update")
    rules.check_keys(values.get("permissions", []))
    if "description" in values:
        values["description"] = values["description"] or None
    lock(uow.session, AdvisoryLock.ROLE_GRAPH)
    if repository.role(uow.session, name, lock=True) is None:
        raise _no_role(name)
    if name == ADMIN and values.keys() & {"permissions", "inherits"}:
        raise Invalid("permissions and parents of role 'admin' are fixed")
    if "inherits" in values:
        rules.check_no_cycle(repository.parents(uow.session), name, values["inherits"])
    repository.update_role(uow.session, name, values)
    _record(uow, Event.ROLE_UPDATED, actor, role=name, **values)


def delete_role(uow: UnitOfWork, actor: Actor, *, name: str) -> None:
    """Remove a role with all its assignments.

    Raises:
        NotFound: no such role.
        Invalid: the role is ``admin``.
    """
    actor.require_admin()
    if name == ADMIN:
        raise Invalid("role 'admin' cannot be deleted")
    if not repository.delete_roles(uow.session, [name]):
        raise _no_role(name)
    _record(uow, Event.ROLE_DELETED, actor, role=name)


def list_assignments(session: Session, actor: Actor) -> list[AssignmentView]:
    """Return all assignments, newest first."""
    actor.require_admin()
    return [
        AssignmentView(row.user_id, row.role, row.assigned_at)
        for row in repository.assignments(session)
    ]


def assign(uow: UnitOfWork, actor: Actor, *, user_id: UUID, role: str) -> None:
    """Give a role to a principal of any kind. Idempotent.

    Raises:
        Invalid: no such role.
        NotFound: no such principal, or the internal system user.
    """
    actor.require_admin()
    # The lock keeps the role from being deleted between this check and the insert.
    if repository.role(uow.session, role, lock=True) is None:
        raise Invalid(f"role '{role}' does not exist")
    if user_id == SYSTEM_USER_ID or not auth_service.exists(uow.session, user_id):
        raise NotFound("user not found")
    give(uow, user_id, role, actor_id=actor.user_id)


def revoke(uow: UnitOfWork, actor: Actor, *, user_id: UUID, role: str) -> None:
    """Take a role from a principal.

    Raises:
        NotFound: the principal does not hold the role.
        Invalid: it is the last administrator.

    Locks: the administrators, when the role is ``admin``.
    """
    actor.require_admin()
    if role == ADMIN:
        lock(uow.session, AdvisoryLock.ADMINS)
    if not repository.has_assignment(uow.session, user_id, role):
        raise NotFound(f"user does not hold role '{role}'")
    if role == ADMIN and is_last_admin(uow.session, user_id):
        raise Invalid("cannot revoke the last admin")
    if not repository.revoke(uow.session, user_id, role):
        raise NotFound(f"user does not hold role '{role}'")
    _record(uow, Event.ROLE_REVOKED, actor, subject_id=user_id, role=role)


def available_keys(session: Session, actor: Actor) -> list[KeyView]:
    """Return the registered keys the caller's own permissions cover, in order."""
    return [
        KeyView(row.key, row.description) for row in repository.keys(session) if actor.can(row.key)
    ]


def no_human_holds_a_role(uow: UnitOfWork) -> bool:
    """Tell whether the installation has nobody in charge yet.

    Locks: the administrators, when the answer is yes, so that it stays true for the caller.
    """
    if repository.human_holds(uow.session, None):
        return False
    lock(uow.session, AdvisoryLock.ADMINS)
    return not repository.human_holds(uow.session, None)


def make_admin(uow: UnitOfWork, user_id: UUID) -> None:
    """Give the role ``admin``. Idempotent."""
    give(uow, user_id, ADMIN)


def replace_app_keys(uow: UnitOfWork, app_id: str, described: Mapping[str, str]) -> None:
    """Make these the registered keys of an app.

    Args:
        uow: the open unit of work.
        app_id: the app that minted them.
        described: full key (``app:<app>:...``) to description.
    """
    repository.delete_keys_of_app(uow.session, app_id, keep=described)
    repository.put_keys(uow.session, described, app_id)


def register_keys(uow: UnitOfWork, described: Mapping[str, str]) -> None:
    """Register keys that belong to no app (integrations, tools). Idempotent."""
    repository.put_keys(uow.session, described, None)


def unregister_keys(uow: UnitOfWork, prefix: str) -> None:
    """Unregister all keys that begin with a prefix (``integration:<id>:``)."""
    repository.delete_keys_below(uow.session, prefix)


def unregister_exactly(uow: UnitOfWork, keys: Collection[str]) -> None:
    """Unregister some keys. Idempotent."""
    repository.delete_keys(uow.session, keys)


def grant_app_admin(uow: UnitOfWork, app_id: str, user_id: UUID) -> None:
    """Give an app's administrator role to whoever installs it; the role is (re)written."""
    name = f"app:{app_id}:admin"
    repository.put_role(
        uow.session,
        name,
        description=f"Everything in app {app_id}",
        permissions=[f"app:{app_id}:*"],
    )
    give(uow, user_id, name, actor_id=user_id)


def grant_agent_role(uow: UnitOfWork, app_id: str, user_id: UUID, keys: list[str]) -> bool:
    """Give an agent its first role; tell whether it was given.

    Nothing happens when the principal holds any role already: what people arranged stays.
    """
    if repository.has_assignment(uow.session, user_id):
        return False
    name = f"app:{app_id}:agent"
    repository.put_role(
        uow.session, name, description=f"The agent of app {app_id}", permissions=keys
    )
    give(uow, user_id, name)
    return True


def remove_app(uow: UnitOfWork, app_id: str) -> None:
    """Forget an app's keys and automatic roles with their assignments. Idempotent."""
    repository.delete_keys_of_app(uow.session, app_id)
    for name in repository.delete_roles(
        uow.session, [f"app:{app_id}:admin", f"app:{app_id}:agent"]
    ):
        security.record(uow.session, Event.ROLE_DELETED, role=name)


def ensure_builtin(uow: UnitOfWork) -> None:
    """Create the internal user, the built-in roles and keys where they are missing.

    Idempotent; run once per start, after the migrations.
    """
    auth_service.ensure_system_user(uow)
    repository.add_role(uow.session, ADMIN, description="Everything", permissions=["*"])
    repository.add_role(uow.session, BASE, description="Every user of single sign-on")
    repository.put_keys(uow.session, rules.BUILTIN_KEYS, None)


def is_last_admin(session: Session, user_id: UUID) -> bool:
    """Tell whether a user is the only enabled human who holds the role ``admin``."""
    return repository.enabled_human_admins(session) == [user_id]


def give(uow: UnitOfWork, user_id: UUID, role: str, *, actor_id: UUID | None = None) -> None:
    """Assign a role that exists, whoever asks. Idempotent."""
    if repository.assign(uow.session, user_id, role) is not None:
        security.record(
            uow.session,
            Event.ROLE_ASSIGNED,
            actor_id=actor_id,
            subject_id=user_id,
            role=role,
        )


def _record(
    uow: UnitOfWork,
    event: Event,
    actor: Actor,
    *,
    subject_id: UUID | None = None,
    **details: Any,  # Any: JSON values
) -> None:
    security.record(uow.session, event, actor_id=actor.user_id, subject_id=subject_id, **details)


def _no_role(name: str) -> NotFound:
    return NotFound(f"role '{name}' not found")
