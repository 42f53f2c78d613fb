"""Service accounts: principals of programs, with keys instead of passwords.

Source: REST contract part 10, sections 10.2 to 10.4.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import security
from app.audit.security import SecurityEventKind as Event
from app.auth import delegations, identities, removal
from app.auth import repository as users
from app.auth.models import ServiceCredential, User
from app.auth.service_accounts import repository
from app.core.actor import Actor, Kind
from app.core.clock import utc_now
from app.core.crypto import digest
from app.core.errors import Invalid, NotFound
from app.core.ids import SYSTEM_USER_ID
from app.core.uow import UnitOfWork

SLUG = re.compile(r"[a-z0-9_-]{1,48}")
MAX_NAME = 255
MAX_DAYS = 365
KEY_PREFIX = "rcs_"
SHOWN_CHARS = 12


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account as the API shows it."""

    id: UUID
    email: str
    display_name: str | None
    disabled: bool
    created_at: datetime
    owner_of_record: UUID | None


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A key, shown this one time.

    Attributes:
        prefix: its first characters, to tell keys apart later.
    """

    id: UUID
    key: str
    prefix: str
    expires_at: datetime
    note: str = "Keep this key now: it is not shown again."


def create(uow: UnitOfWork, actor: Actor, *, slug: str, display_name: str | None) -> ServiceAccount:
    """Add a service account without roles; the actor becomes its owner of record.

    Raises:
        Invalid: a bad or taken slug, or a name that is too long.
    """
    if SLUG.fullmatch(slug) is None:
        raise Invalid("slug must be 1-48 characters of a-z, 0-9, _ and -")
    identities.check_display_name(display_name)
    account_id = repository.add_account(
        uow.session,
        email=f"sa+{slug}@localhost",
        display_name=display_name,
        owner_id=actor.user_id,
    )
    if account_id is None:
        raise Invalid(f"service account '{slug}' already exists")
    _record(uow, Event.SERVICE_ACCOUNT_CREATED, actor, account_id, slug=slug)
    return _shown(require(uow.session, account_id))


def list_all(session: Session) -> list[ServiceAccount]:
    """Return all service accounts by address."""
    return [_shown(account) for account in repository.accounts(session)]


def require(session: Session, account_id: UUID, *, lock: bool = False) -> User:
    """Return a service account.

    Raises:
        NotFound: unknown, a principal of another kind, or the internal user.
    """
    account = repository.account(session, account_id, lock=lock)
    if account is None:
        raise NotFound("service account not found")
    return account


def delete(uow: UnitOfWork, actor: Actor, *, account_id: UUID) -> None:
    """Delete an account with its keys; its automations stay without an owner.

    Raises:
        NotFound: no such account.
        Conflict: a restricting link in the data of an app refers to it.
    """
    account = require(uow.session, account_id, lock=True)
    removal.remove(uow, actor, account, Event.SERVICE_ACCOUNT_DELETED)


def set_disabled(
    uow: UnitOfWork, actor: Actor, *, account_id: UUID, disabled: bool
) -> ServiceAccount:
    """Take an account's authority or give it back; acts on tokens already issued. Idempotent.

    Raises:
        NotFound: no such account.
    """
    account = require(uow.session, account_id, lock=True)
    if disabled != (account.disabled_at is not None):
        account.disabled_at = utc_now() if disabled else None
        event = Event.SERVICE_ACCOUNT_DISABLED if disabled else Event.SERVICE_ACCOUNT_ENABLED
        _record(uow, event, actor, account_id)
    return _shown(account)


def add_credential(
    uow: UnitOfWork, actor: Actor, *, account_id: UUID, name: str, days: int
) -> NewCredential:
    """Make another key of an account; the others stay good (rotation).

    Args:
        uow: the open unit of work.
        actor: who makes it.
        account_id: the account.
        name: what people call it.
        days: until it expires; brought within 1 to 365.

    Raises:
        NotFound: no such account.
        Invalid: no name, or one that is too long.
    """
    if not name.strip() or len(name) > MAX_NAME:
        raise Invalid(f"field 'name' must be 1 to {MAX_NAME} characters long")
    require(uow.session, account_id, lock=True)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    prefix = key[:SHOWN_CHARS]
    expires_at = utc_now() + timedelta(days=min(max(days, 1), MAX_DAYS))
    credential_id = repository.add_credential(
        uow.session,
        account_id,
        name=name,
        key_hash=digest(key),
        prefix=prefix,
        expires_at=expires_at,
    )
    _record(uow, Event.CREDENTIAL_CREATED, actor, account_id, name=name, prefix=prefix)
    return NewCredential(credential_id, key, prefix, expires_at)


def list_credentials(session: Session, *, account_id: UUID) -> list[ServiceCredential]:
    """Return every key of an account, newest first, revoked and expired ones too.

    Raises:
        NotFound: no such account.
    """
    require(session, account_id)
    return repository.credentials(session, account_id)


def revoke_credential(
    uow: UnitOfWork, actor: Actor, *, account_id: UUID, credential_id: UUID
) -> None:
    """End a key at once; access tokens it was swapped for live on for their minutes.

    Raises:
        NotFound: no such account, or no such key of it that is not revoked.
    """
    require(uow.session, account_id)
    if not repository.revoke_credential(uow.session, account_id, credential_id):
        raise NotFound("credential not found")
    _record(uow, Event.CREDENTIAL_REVOKED, actor, account_id, credential=str(credential_id))


def transfer(uow: UnitOfWork, actor: Actor, *, account_id: UUID, new_owner: UUID) -> ServiceAccount:
    """Make another human the owner of record.

    Raises:
        NotFound: no such account.
        Invalid: the new owner is no human.
    """
    account = require(uow.session, account_id, lock=True)
    if users.human(uow.session, new_owner) is None:
        raise Invalid("new_owner must be an existing human user")
    account.owner_of_record = new_owner
    _record(uow, Event.SERVICE_ACCOUNT_TRANSFERRED, actor, account_id, owner=str(new_owner))
    return _shown(account)


def grant_act_as(uow: UnitOfWork, actor: Actor, *, account_id: UUID, user_id: UUID) -> None:
    """Let a principal order work in an account's name. Idempotent.

    Raises:
        NotFound: no such account, or no such principal.
        Invalid: the principal is an agent.
    """
    # The lock keeps the account from being deleted before the delegation is there.
    require(uow.session, account_id, lock=True)
    user = users.user(uow.session, user_id)
    if user is None or user.id == SYSTEM_USER_ID:
        raise NotFound("user not found")
    if user.kind == Kind.AGENT:
        raise Invalid("an agent cannot act as a service account")
    if delegations.allow_act_as(uow.session, user_id=user_id, account_id=account_id):
        _record(uow, Event.ACT_AS_GRANTED, actor, user_id, account=str(account_id))


def revoke_act_as(uow: UnitOfWork, actor: Actor, *, account_id: UUID, user_id: UUID) -> None:
    """End what ``grant_act_as`` allowed. Idempotent.

    Raises:
        NotFound: no such account.
    """
    require(uow.session, account_id)
    if delegations.forbid_act_as(uow.session, user_id=user_id, account_id=account_id):
        _record(uow, Event.ACT_AS_REVOKED, actor, user_id, account=str(account_id))


def _shown(account: User) -> ServiceAccount:
    return ServiceAccount(
        id=account.id,
        email=account.email,
        display_name=account.display_name,
        disabled=account.disabled_at is not None,
        created_at=account.created_at,
        owner_of_record=account.owner_of_record,
    )


def _record(uow: UnitOfWork, event: Event, actor: Actor, subject_id: UUID, **details: str) -> None:
    security.record(uow.session, event, actor_id=actor.user_id, subject_id=subject_id, **details)
