"""Ordering work in somebody else's name: the one gate for crons, jobs and hooks.

Used by slices above as it is.

Source: REST contract part 10, section 10.4.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from app.auth import delegations
from app.core.actor import Actor, Kind
from app.core.errors import Forbidden, Invalid
from app.core.ids import UUID_TEXT
from app.rbac import service


def owner_of_work(session: Session, actor: Actor, wanted: object, *, field: str) -> UUID | None:
    """Return in whose name work that an actor orders shall run.

    Args:
        session: any session.
        actor: who orders it.
        wanted: what the client sent; None: the actor's own name (nobody's for anonymous work).
        field: its name on the wire, for the error texts.

    Raises:
        Invalid: not spelled like an id, or a principal that cannot act any more.
        Forbidden: the actor may not act for that principal.
    """
    if wanted is None:
        return actor.user_id
    if not isinstance(wanted, str) or UUID_TEXT.fullmatch(wanted) is None:
        raise Invalid(f"invalid {field}")
    target_id = UUID(wanted)
    if target_id == actor.user_id:
        return target_id
    require_delegation(session, actor, target_id)
    target = service.load_actor(session, target_id)
    if target is None:
        raise Invalid(f"invalid {field}")
    if not all(actor.can(key) for key in target.permissions.keys):
        raise Forbidden("target has permissions you do not hold")
    return target_id


def require_delegation(session: Session, actor: Actor, target_id: UUID) -> None:
    """Check that an actor was allowed to act for a principal; nobody is exempt.

    Raises:
        Forbidden: it was not, or an agent is at work.
    """
    agent_at_work = actor.kind is Kind.AGENT or actor.delegator_id is not None
    allowed = (
        actor.user_id is not None
        and not agent_at_work
        and delegations.acts_as(session, user_id=actor.user_id, account_id=target_id)
    )
    if not allowed:
        raise Forbidden("not allowed to act as this principal")
