"""Reading the logs. Postgres builds the JSON.

Source: REST contract part 20, section 12.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, func, literal_column, select
from sqlalchemy.orm import Session

from app.audit.models import AuditEntry
from app.audit.security_models import SecurityEvent

Condition = ColumnElement[bool]
COLUMNS = (
    *("id", "table_schema", "table_name", "record_id", "operation", "old_record", "new_record"),
    *("actor_uid", "delegator_uid", "trigger_ref"),
)


def entries(
    session: Session,
    conditions: Sequence[Condition],
    order: Sequence[ColumnElement[Any]],  # Any: columns of several types
    limit: int,
) -> str:
    """Return audit entries as a JSON array."""
    columns = [getattr(AuditEntry, name) for name in COLUMNS]
    changed_at = func.trellis.rfc3339_v1(AuditEntry.changed_at).label("changed_at")
    page = select(*columns, changed_at).where(*conditions).order_by(*order).limit(limit)
    return _json(session, page)


def security_events(session: Session, conditions: Sequence[Condition], limit: int) -> str:
    """Return security events as a JSON array, newest first."""
    page = (
        select(
            SecurityEvent.id,
            SecurityEvent.event,
            SecurityEvent.actor_uid,
            SecurityEvent.subject_uid,
            SecurityEvent.client_address,
            SecurityEvent.details,
            func.trellis.rfc3339_v1(SecurityEvent.occurred_at).label("occurred_at"),
        )
        .where(*conditions)
        .order_by(SecurityEvent.id.desc())
        .limit(limit)
    )
    return _json(session, page)


def _json(session: Session, page: Select[Any]) -> str:  # Any: rows become one text
    array = func.coalesce(func.json_agg(literal_column("entry")), "[]").cast(Text)
    return str(session.execute(select(array).select_from(page.subquery("entry"))).scalar_one())
