"""The security log: sign-ins, registrations and changes of authority.

Written in the transaction of the change itself, so a change without its entry cannot exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.audit.security_models import SecurityEvent


class SecurityEventKind(StrEnum):
    """What can be found in the log; the texts are fixed for good."""

    USER_REGISTERED = "user_registered"
    USER_PROVISIONED = "user_provisioned"
    USER_LINKED = "user_linked"
    USER_DELETED = "user_deleted"
    LOGIN_SUCCEEDED = "login_succeeded"
    LOGIN_FAILED = "login_failed"
    LOGGED_OUT = "logged_out"
    TOKEN_EXCHANGED = "token_exchanged"  # noqa: S105 - the name of an event
    ROLE_CREATED = "role_created"
    ROLE_UPDATED = "role_updated"
    ROLE_DELETED = "role_deleted"
    ROLE_ASSIGNED = "role_assigned"
    ROLE_REVOKED = "role_revoked"
    PROVIDER_SAVED = "provider_saved"
    PROVIDER_DELETED = "provider_deleted"
    SERVICE_ACCOUNT_CREATED = "service_account_created"
    SERVICE_ACCOUNT_DELETED = "service_account_deleted"
    SERVICE_ACCOUNT_DISABLED = "service_account_disabled"
    SERVICE_ACCOUNT_ENABLED = "service_account_enabled"
    SERVICE_ACCOUNT_TRANSFERRED = "service_account_transferred"
    CREDENTIAL_CREATED = "credential_created"
    CREDENTIAL_REVOKED = "credential_revoked"
    ACT_AS_GRANTED = "act_as_granted"
    ACT_AS_REVOKED = "act_as_revoked"
    CLIENT_ADMITTED = "client_admitted"
    CLIENT_REFUSED = "client_refused"
    MAGIC_LINK_CREATED = "magic_link_created"
    APPROVAL_DECIDED = "approval_decided"


def record(
    session: Session,
    kind: SecurityEventKind,
    *,
    actor_id: UUID | None = None,
    subject_id: UUID | None = None,
    client_address: str | None = None,
    **details: Any,  # Any: JSON values
) -> None:
    """Add an entry.

    Args:
        session: of the transaction that makes the change.
        kind: what happened.
        actor_id: who did it; None when nobody was signed in.
        subject_id: whose account or authority it is about.
        client_address: where the request came from.
        details: further facts; never a credential.
    """
    session.execute(
        insert(SecurityEvent).values(
            event=kind,
            actor_uid=actor_id,
            subject_uid=subject_id,
            client_address=client_address,
            details=details,
        )
    )


@dataclass(frozen=True, slots=True)
class SecurityEntry:
    """One entry of the security log."""

    id: int
    occurred_at: datetime
    event: str
    actor_uid: UUID | None
    subject_uid: UUID | None
    client_address: str | None
    details: Mapping[str, Any]  # Any: JSON values


def list_entries(
    session: Session, *, limit: int, before: int | None = None, event: str | None = None
) -> list[SecurityEntry]:
    """Return entries, newest first.

    Args:
        session: any session.
        limit: how many at most.
        before: only entries with a smaller id (paging).
        event: only entries of this kind.
    """
    query = select(SecurityEvent).order_by(SecurityEvent.id.desc()).limit(limit)
    if before is not None:
        query = query.where(SecurityEvent.id < before)
    if event is not None:
        query = query.where(SecurityEvent.event == event)
    return [
        SecurityEntry(
            id=row.id,
            occurred_at=row.occurred_at,
            event=row.event,
            actor_uid=row.actor_uid,
            subject_uid=row.subject_uid,
            client_address=row.client_address,
            details=row.details,
        )
        for row in session.scalars(query)
    ]
