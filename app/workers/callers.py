"""Who calls an app, read in one statement with what is wanted of the app.

It runs for every message of calls, so each round trip counts.

Source: REST contract part 30, section 7; ADR 0003.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.ids import SYSTEM_USER_ID
from app.core.statements import fetch
from app.rbac import service as rbac_service
from app.workers.repository import WANTED, Wanted, read_wanted

CALLERS = f"""
SELECT p.id, p.email, p.kind, p.stamp, w.* FROM (SELECT) one
LEFT JOIN ({rbac_service.PRINCIPALS}) p ON true
LEFT JOIN ({WANTED}) w ON true
"""  # noqa: S608 - put together from constants


def look_up(
    session: Session, app_id: str, user_ids: Collection[UUID]
) -> tuple[dict[UUID, Actor], Wanted | None]:
    """Read who calls an app and what is wanted of it.

    Returns:
        The enabled ones of the users, with the permissions they have now; and None for an app
        that has no row.
    """
    values = {"app_id": app_id, "principals": [str(user_id) for user_id in user_ids]}
    rows = fetch(session, CALLERS, values, often=True).all()
    actors: dict[UUID, Actor] = {}
    for user_id, email, kind, stamp, *_wanted in rows:
        if user_id is None or UUID(str(user_id)) == SYSTEM_USER_ID:
            continue
        found = UUID(str(user_id))
        actors[found] = rbac_service.actor_of(
            session, found, email=email, kind=kind, stamp=UUID(str(stamp))
        )
    return actors, None if rows[0][4] is None else read_wanted(rows[0][4:])
