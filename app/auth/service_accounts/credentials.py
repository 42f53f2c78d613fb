"""Client credentials: a program swaps its key for an access token.

Source: REST contract part 10, section 10.3; RFC 6749, section 4.4.
"""

from __future__ import annotations

import hmac
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.audit import security
from app.audit.security import SecurityEventKind
from app.auth import service as accounts_service
from app.auth.models import ServiceCredential, User
from app.auth.service import Tokens
from app.auth.service_accounts import repository
from app.auth.throttle import Throttle
from app.core.crypto import digest
from app.core.errors import Invalid, Unauthenticated
from app.core.ids import UUID_TEXT
from app.core.uow import UnitOfWork, UnitOfWorkFactory
from config.settings import AuthSettings

log = structlog.get_logger(__name__)

GRANT_TYPE = "client_credentials"


def exchange(
    open_uow: UnitOfWorkFactory,
    auth: AuthSettings,
    throttle: Throttle,
    *,
    grant_type: str,
    client_id: str,
    client_secret: str,
    client_address: str | None,
) -> Tokens:
    """Swap a key for an access token; no session begins.

    Args:
        open_uow: opens the units of work.
        auth: lifetimes and the key of our tokens.
        throttle: the brake on guessing.
        grant_type: only ``client_credentials``.
        client_id: id of the service account.
        client_secret: one of its keys.
        client_address: where the request came from.

    Raises:
        Invalid: another grant type, or nobody answers for the account any more.
        TooMany: too many failures lately.
        Unauthenticated: everything else that is wrong, with one text.
    """
    if grant_type != GRANT_TYPE:
        raise Invalid("unsupported_grant_type")
    account_id = UUID(client_id) if UUID_TEXT.fullmatch(client_id) else None
    with throttle.attempt(client_address, str(account_id or client_id)):
        with open_uow() as uow:
            found = _find(uow.session, account_id, client_secret)
            if found is not None:
                _note_use(uow, *found, client_address)
                return accounts_service.access_only(auth, accounts_service.shown(found[0]))
        _log_refusal(open_uow, account_id, client_address)
        raise Unauthenticated("invalid_client")


def _find(
    session: Session, account_id: UUID | None, key: str
) -> tuple[User, ServiceCredential] | None:
    account = None if account_id is None else repository.account(session, account_id)
    if account is None or account.disabled_at is not None:
        return None
    presented = digest(key)
    # Every key is compared, so that the time tells nothing about which one is right.
    fitting = [
        credential
        for credential in repository.live_credentials(session, account.id)
        if hmac.compare_digest(bytes(credential.key_hash), presented)
    ]
    return (account, fitting[0]) if fitting else None


def _note_use(
    uow: UnitOfWork, account: User, credential: ServiceCredential, client_address: str | None
) -> None:
    if account.owner_of_record is None:
        raise Invalid("service account has no owner of record")
    repository.touch_credential(uow.session, credential.id)
    security.record(
        uow.session,
        SecurityEventKind.CLIENT_ADMITTED,
        actor_id=account.id,
        subject_id=account.id,
        client_address=client_address,
        prefix=credential.prefix,
    )


def _log_refusal(
    open_uow: UnitOfWorkFactory, account_id: UUID | None, client_address: str | None
) -> None:
    log.info("client_refused")
    with open_uow() as uow:
        known = account_id is not None and repository.account(uow.session, account_id) is not None
        security.record(
            uow.session,
            SecurityEventKind.CLIENT_REFUSED,
            subject_id=account_id if known else None,
            client_address=client_address,
        )
