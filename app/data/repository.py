"""The registry of entities, and the settings of a data transaction."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.data.models import DataContract


def stamp_in_context(session: Session, app_id: str, actor: Actor | None, timeout_ms: int) -> UUID | None:
    """Set who acts for the rest of the transaction and return the app's stamp.

    One round trip does both. Returns None when the app has no data contract.
    """
    settings = [
        func.set_config(name, value, True)  # noqa: FBT003 - is_local
        for name, value in context(actor, timeout_ms).items()
    ]
    stamp = select(DataContract.stamp).where(DataContract.app_id == app_id).scalar_subquery()
    return session.execute(select(stamp, *settings)).one()[0]


def set_context(session: Session, actor: Actor | None, timeout_ms: int) -> None:
    """Set who acts for the rest of the transaction."""
    session.execute(
        select(
            *(
                func.set_config(name, value, True)  # noqa: FBT003 - is_local
                for name, value in context(actor, timeout_ms).items()
            )
        )
    )


def context(actor: Actor | None, timeout_ms: int) -> dict[str, str]:
    """Return the settings that the audit trigger reads, and the statement limit."""
    return {
        "statement_timeout": str(timeout_ms),
        "trellis.user_id": str(actor.user_id) if actor and actor.user_id else "",
        "trellis.delegator_id": str(actor.delegator_id) if actor and actor.delegator_id else "",
        "trellis.source": actor.source.value if actor else "",
    }


def contract(session: Session, app_id: str) -> tuple[UUID, list[dict[str, Any]]] | None:
    """Return stamp and entities of an app."""
    row = session.execute(
        select(DataContract.stamp, DataContract.entities).where(DataContract.app_id == app_id)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def stamps(session: Session) -> dict[str, UUID]:
    """Return the stamp of every app."""
    return dict(session.execute(select(DataContract.app_id, DataContract.stamp)).tuples().all())


def store(session: Session, app_id: str, entities: list[dict[str, Any]]) -> None:
    """Insert or replace the entities of an app."""
    values = {"entities": entities, "stamp": uuid4(), "updated_at": func.now()}
    session.execute(
        insert(DataContract)
        .values(app_id=app_id, **values)
        .on_conflict_do_update(index_elements=[DataContract.app_id], set_=values)
    )


def remove(session: Session, app_id: str) -> None:
    """Forget the entities of an app."""
    session.execute(delete(DataContract).where(DataContract.app_id == app_id))
