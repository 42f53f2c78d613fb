"""Asking the logs.

Source: REST contract part 20, section 12.2.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, cast
from sqlalchemy.orm import Session

from app.audit import repository
from app.audit.models import AuditEntry
from app.audit.security_models import SecurityEvent
from app.core.errors import Invalid
from app.core.paging import clamp, whole_number

FILTERED = ("table_schema", "table_name", "record_id", "operation", "changed_at")
SHORTHANDS = {"app_id": "table_schema", "entity": "table_name"}
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {  # Any: SQLAlchemy operands
    "": operator.eq,
    "neq": operator.ne,
    "gte": operator.ge,
    "lte": operator.le,
}
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
LARGEST_ID = 2**63 - 1


def entries(session: Session, parameters: Mapping[str, str]) -> str:
    """Return audit entries as a JSON array.

    Args:
        session: the session.
        parameters: query parameters; unknown ones are ignored.

    Raises:
        Invalid: ``changed_at`` is compared with something that is no time.
    """
    conditions = [c for name, text in parameters.items() for c in _conditions(name, text)]
    before = whole_number(parameters.get("before"))
    if before is not None:
        conditions.append(AuditEntry.id < clamp(before, -LARGEST_ID, LARGEST_ID))
    name = parameters.get("order_by", "")
    columns = [getattr(AuditEntry, name)] if name in FILTERED else []
    ascending = parameters.get("order", "").lower() == "asc"
    order = [c.asc() if ascending else c.desc() for c in [*columns, AuditEntry.id]]
    return repository.entries(session, conditions, order, _limit(parameters))


def security_events(session: Session, parameters: Mapping[str, str]) -> str:
    """Return security events as a JSON array, newest first.

    Args:
        session: the session.
        parameters: ``event``, ``before`` and ``limit``.
    """
    conditions: list[ColumnElement[bool]] = []
    if "event" in parameters:
        conditions.append(SecurityEvent.event == parameters["event"])
    before = whole_number(parameters.get("before"))
    if before is not None:
        conditions.append(SecurityEvent.id < clamp(before, -LARGEST_ID, LARGEST_ID))
    return repository.security_events(session, conditions, _limit(parameters))


def _limit(parameters: Mapping[str, str]) -> int:
    wanted = whole_number(parameters.get("limit"))
    return DEFAULT_LIMIT if wanted is None else clamp(wanted, 1, MAX_LIMIT)


def _conditions(parameter: str, text: str) -> list[ColumnElement[bool]]:
    name, _, suffix = parameter.partition("__")
    if parameter in SHORTHANDS:
        name = SHORTHANDS[parameter]
    if name not in FILTERED or "\0" in text:
        return []
    column = getattr(AuditEntry, name)
    if suffix == "contains":
        return [cast(column, Text).icontains(text, autoescape=True)]
    if suffix not in OPERATORS or parameter.endswith("__"):
        return []
    operand = _time(text) if name == "changed_at" else text
    return [OPERATORS[suffix](column, operand)]


def _time(text: str) -> datetime:
    # A plus sign that was not escaped in the query string arrives as a blank.
    spelled = re.sub(r" (\d{2}:\d{2})$", r"+\1", text) if text.count(":") > 2 else text
    try:
        moment = datetime.fromisoformat(spelled)
    except ValueError as exc:
        raise Invalid(f"changed_at: '{text}' is not a valid timestamp") from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
