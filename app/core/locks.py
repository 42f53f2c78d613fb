"""Names of the advisory locks, so that no two uses share a number by accident."""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

NAMESPACE = 0x7472  # the first key of every lock taken here; the second is its name


class AdvisoryLock(IntEnum):
    """Locks that span rows which may not exist yet.

    Order when several are taken in one transaction: ascending.
    """

    ADMINS = 1
    ROLE_GRAPH = 2
    CRON_FIRE = 10
    SCHEDULER = 11
    FIRST_BOOT = 20
    APP_LOGIN = 21


def lock(session: Session, name: AdvisoryLock) -> None:
    """Wait for a lock and hold it until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(NAMESPACE, int(name))))


def lock_shard(session: Session, name: AdvisoryLock, shard: int) -> None:
    """Wait for one of a lock's parts (0 to 999) and hold it until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(NAMESPACE, int(name) * 1000 + shard)))


APPS_NAMESPACE = 0x7473  # the first key of the locks of single apps


def lock_app(session: Session, app_id: str) -> None:
    """Wait for an app's install lock and hold it until the transaction ends.

    Taken before any lock above.
    """
    session.execute(select(func.pg_advisory_xact_lock(APPS_NAMESPACE, func.hashtext(app_id))))


def share_app(session: Session, app_id: str) -> None:
    """Wait for a running install of an app and keep others out until the transaction ends."""
    key = func.hashtext(app_id)
    session.execute(select(func.pg_advisory_xact_lock_shared(APPS_NAMESPACE, key)))


LANES_NAMESPACE = 0x7474  # the first key of the locks of conversations in chats


def lock_lane(session: Session, name: str) -> None:
    """Wait for a conversation's lock and hold it until the transaction ends.

    Taken before any row is locked.
    """
    session.execute(select(func.pg_advisory_xact_lock(LANES_NAMESPACE, func.hashtext(name))))
