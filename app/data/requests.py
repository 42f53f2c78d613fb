"""What read requests ask for, from query parameters and JSON bodies.

Source: REST contract part 20, sections 5.1 and 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import Invalid
from app.core.paging import clamp, whole_number
from app.data.values import JSONValue

RESERVED = frozenset({"limit", "offset", "sort", "order", "linked"})
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_OFFSET = 2**62


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list request asks for.

    Attributes:
        filters: field names and texts.
        limit: None = every row.
    """

    filters: Mapping[str, str]
    sort: str = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0
    linked: str | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Listing:
        """Return the listing that query parameters ask for."""
        limit = None
        if "limit" in parameters:
            wanted = whole_number(parameters["limit"])
            limit = DEFAULT_LIMIT if wanted is None else clamp(wanted, 1, MAX_LIMIT)
        return cls(
            filters={k: v for k, v in parameters.items() if k not in RESERVED},
            sort=parameters.get("sort", "created_at"),
            descending=parameters.get("order", "").lower() != "asc",
            limit=limit,
            offset=clamp(whole_number(parameters.get("offset")) or 0, 0, MAX_OFFSET),
            linked=parameters.get("linked"),
        )


@dataclass(frozen=True, slots=True)
class Query:
    """The body of a query, checked for shape."""

    where: JSONValue
    sort: str
    descending: bool
    limit: int
    offset: int
    linked: JSONValue

    @classmethod
    def of(cls, body: JSONValue) -> Query:
        """Return the query a JSON body asks for.

        Raises:
            Invalid: a key has the wrong type.
        """
        if not isinstance(body, dict):
            raise Invalid("body must be an object")
        return cls(
            where=body.get("where"),
            sort=_typed(body, "orderBy", str, "a string", "created_at"),
            descending=_typed(body, "order", str, "a string", "desc").lower() != "asc",
            limit=clamp(_integer(body, "limit", DEFAULT_LIMIT), 1, MAX_LIMIT),
            offset=clamp(_integer(body, "offset", 0), 0, MAX_OFFSET),
            linked=_linked(body),
        )


def _typed(
    body: Mapping[str, Any], key: str, kind: type, name: str, default: str
) -> str:  # Any: JSON
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Invalid(f"'{key}' must be {name}")
    return str(value)


def _integer(body: Mapping[str, Any], key: str, default: int) -> int:  # Any: JSON values
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"'{key}' must be an integer")
    return value


def _linked(body: Mapping[str, Any]) -> JSONValue:  # Any: JSON values
    value = body.get("linked")
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if value is not None and not isinstance(value, bool) and not texts:
        raise Invalid("'linked' must be a boolean or an array of strings")
    return value
