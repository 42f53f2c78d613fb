"""What happens to accounts, seen from the roles: first role, last administrator, magic links.

Source: REST contract part 10, sections 5.1, 5.8, 6.6 and 10.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy.orm import Session

from app.auth import service as auth_service
from app.auth.events import RolesConferred, RolesOffered, UserCreated, UserDeleting
from app.core.actor import Actor
from app.core.errors import Forbidden, Invalid
from app.core.locks import AdvisoryLock, lock
from app.core.uow import UnitOfWork
from app.rbac import repository, service
from app.rbac.repository import ADMIN
from app.rbac.service import BASE


def give_first_role(uow: UnitOfWork, event: UserCreated) -> None:
    """Make the first human administrator; give later ones the role they came for.

    Locks: the administrators, as long as there is none, so that simultaneous first
    registrations produce exactly one.
    """
    if not repository.human_holds(uow.session, ADMIN):
        lock(uow.session, AdvisoryLock.ADMINS)
        if not repository.human_holds(uow.session, ADMIN):
            service.make_admin(uow, event.user_id)
            return
    if event.roles_wanted:
        service.give(uow, event.user_id, _first_existing(uow.session, event.roles_wanted))


def before_user_goes(uow: UnitOfWork, event: UserDeleting) -> None:
    """Refuse to lose the last administrator; name the heir of what the user owned.

    Raises:
        Invalid: the user is the only enabled human who holds the role ``admin``.
    """
    if service.is_last_admin(uow.session, event.user_id):
        raise Invalid("cannot delete the last admin")
    heir: UUID | None = event.actor_id
    if heir == event.user_id:
        others = repository.enabled_human_admins(uow.session)
        heir = next((admin for admin in others if admin != event.user_id), None)
    auth_service.hand_over_owned(uow.session, event.user_id, heir)


def check_offer(uow: UnitOfWork, event: RolesOffered) -> None:
    """Refuse a link that confers more than its author may.

    Raises:
        Invalid: a role does not exist.
        Forbidden: the author does not hold a role and is no administrator.
    """
    for role in event.roles:
        if not repository.role_exists(uow.session, role):
            raise Invalid(f"role '{role}' does not exist")
    _check_may_confer(uow.session, event.actor, event.roles)


def confer(uow: UnitOfWork, event: RolesConferred) -> None:
    """Give the roles of a link that was used; those deleted meanwhile are passed over.

    Raises:
        Forbidden: its author is gone or disabled, or may not confer them any more.
    """
    author = service.load_actor(uow.session, event.author_id)
    if author is None:
        raise Forbidden("the author of the link has no authority any more")
    author.require("auth.invite")
    left = [r for r in event.roles if repository.role(uow.session, r, lock=True) is not None]
    _check_may_confer(uow.session, author, left)
    for role in left:
        service.give(uow, event.user_id, role, actor_id=event.author_id)


def _check_may_confer(session: Session, author: Actor, roles: Iterable[str]) -> None:
    if author.is_admin:
        return
    held = repository.resolve(session, author.user_id).roles if author.user_id else frozenset()
    for role in roles:
        if role not in held:
            raise Forbidden(f"cannot confer role '{role}' that you do not hold")


def _first_existing(session: Session, names: tuple[str, ...]) -> str:
    for name in names:
        if repository.role(session, name, lock=True) is not None:
            return name
    repository.add_role(session, BASE)
    return BASE
