"""The end of an account, with everything that is its alone.

Source: REST contract part 10, sections 5.8 and 10.2.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.exc import IntegrityError

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import delegations, repository
from app.auth.events import UserDeleted, UserDeleting
from app.auth.models import User
from app.core.actor import Actor
from app.core.errors import Conflict, NotFound
from app.core.locks import AdvisoryLock, lock
from app.core.uow import UnitOfWork


def delete_user(uow: UnitOfWork, actor: Actor, *, user_id: UUID) -> None:
    """Delete a human with everything that is theirs alone.

    Raises:
        NotFound: no such human.
        Invalid: the last administrator (raised by the subscriber in ``rbac``).
        Conflict: a restricting link in the data of an app refers to the user.

    Locks: the administrators, then the user's row.
    """
    actor.require_admin()
    lock(uow.session, AdvisoryLock.ADMINS)
    user = repository.human(uow.session, user_id, lock=True)
    if user is None:
        raise NotFound("user not found")
    remove(uow, actor, user, SecurityEventKind.USER_DELETED)


def remove(uow: UnitOfWork, actor: Actor, user: User, recorded_as: SecurityEventKind) -> None:
    """Delete an account; its automations stay without an owner, what it owned gets a new one.

    Args:
        uow: the open unit of work.
        actor: who deletes it.
        user: the account, locked.
        recorded_as: the entry of the security log.

    Raises:
        Invalid: a subscriber refuses.
        Conflict: a restricting link in the data of an app refers to the account.
    """
    if actor.user_id is None:
        raise NotFound("user not found")
    user_id, email = user.id, user.email
    uow.emit(UserDeleting(user_id, actor.user_id))
    security.record(
        uow.session, recorded_as, actor_id=actor.user_id, subject_id=user_id, email=email
    )
    delegations.revoke(uow.session, delegatee_id=user_id)
    repository.delete_magic_links_to(uow.session, email)
    try:
        with uow.session.begin_nested():
            repository.delete_user(uow.session, user_id)
    except IntegrityError as exc:
        raise Conflict("conflict: user is still referenced by application data") from exc
    uow.emit(UserDeleted(user_id))
