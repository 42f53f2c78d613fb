"""Who may act for whom: standing permissions of principals for agents and service accounts.

Used by slices above as it is.

Source: REST contract part 10, section 10.4; part 40, section 1.3.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.auth.models import Delegation

ACT_AS = "act_as"


def delegate(
    session: Session,
    *,
    delegator_id: UUID,
    delegatee_id: UUID,
    trigger_type: str,
    trigger_id: str,
) -> None:
    """Note that a trigger may make one principal act for another, instead of anybody before.

    Args:
        session: an open transaction.
        delegator_id: in whose name things happen.
        delegatee_id: who acts; an agent or a service account.
        trigger_type: cron, hook, webhook, manual, channel or act_as.
        trigger_id: which one; its earlier delegation to this delegatee ends.
    """
    revoke(session, delegatee_id=delegatee_id, trigger_type=trigger_type, trigger_id=trigger_id)
    session.add(
        Delegation(
            delegator_id=delegator_id,
            delegatee_id=delegatee_id,
            trigger_type=trigger_type,
            trigger_id=trigger_id,
        )
    )
    # Later statements of the same transaction look for it.
    session.flush()


def revoke(
    session: Session,
    *,
    delegatee_id: UUID | None = None,
    trigger_type: str | None = None,
    trigger_id: str | None = None,
) -> int:
    """Revoke the live delegations that match everything given; return how many."""
    query = update(Delegation).where(Delegation.revoked_at.is_(None))
    if delegatee_id is not None:
        query = query.where(Delegation.delegatee_id == delegatee_id)
    if trigger_type is not None:
        query = query.where(Delegation.trigger_type == trigger_type)
    if trigger_id is not None:
        query = query.where(Delegation.trigger_id == trigger_id)
    gone = query.values(revoked_at=func.now()).returning(Delegation.id)
    return len(session.execute(gone).all())


def delegated(
    session: Session,
    *,
    delegator_id: UUID,
    delegatee_id: UUID,
    trigger_type: str,
    trigger_id: str,
) -> bool:
    """Tell whether a live delegation for a trigger exists."""
    query = select(Delegation.id).where(
        Delegation.delegator_id == delegator_id,
        Delegation.delegatee_id == delegatee_id,
        Delegation.trigger_type == trigger_type,
        Delegation.trigger_id == trigger_id,
        Delegation.revoked_at.is_(None),
        Delegation.expires_at.is_(None) | (Delegation.expires_at > func.now()),
    )
    return session.scalar(query.limit(1)) is not None


def allow_act_as(session: Session, *, user_id: UUID, account_id: UUID) -> bool:
    """Let a principal order work in a service account's name; tell whether that is new."""
    if acts_as(session, user_id=user_id, account_id=account_id):
        return False
    delegate(
        session,
        delegator_id=user_id,
        delegatee_id=account_id,
        trigger_type=ACT_AS,
        trigger_id=str(user_id),
    )
    return True


def forbid_act_as(session: Session, *, user_id: UUID, account_id: UUID) -> bool:
    """End what ``allow_act_as`` allowed; tell whether there was anything to end."""
    return bool(
        revoke(session, delegatee_id=account_id, trigger_type=ACT_AS, trigger_id=str(user_id))
    )


def acts_as(session: Session, *, user_id: UUID, account_id: UUID) -> bool:
    """Tell whether a principal may order work in another one's name."""
    return delegated(
        session,
        delegator_id=user_id,
        delegatee_id=account_id,
        trigger_type=ACT_AS,
        trigger_id=str(user_id),
    )
