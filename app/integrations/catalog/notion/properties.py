"""Between Notion's property objects and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks import plain, rich_text
from connector import UNKNOWN, ServiceError

JSONObject = dict[str, Any]  # Any: JSON values

TEXTS = frozenset({"title", "rich_text"})
SAME = frozenset({"number", "url", "email", "phone_number", "checkbox"})
NAMED = frozenset({"select", "status"})


def to_notion(values: Mapping[str, Any], types: Mapping[str, str]) -> JSONObject:
    """Return plain values as property objects.

    Args:
        values: plain values by property name; null clears.
        types: the properties' types by name.

    Raises:
        ServiceError: there is no such property, or it cannot be written.
    """
    return {name: _written(name, value, types) for name, value in values.items()}


def _written(name: str, value: Any, types: Mapping[str, str]) -> JSONObject:
    kind = types.get(name)
    if kind is None:
        raise ServiceError(UNKNOWN, f"there is no property '{name}'")
    if kind in TEXTS:
        return {kind: [] if value is None else rich_text(str(value))}
    if kind in SAME:
        return {kind: value}
    if kind in NAMED:
        return {kind: None if value is None else {"name": str(value)}}
    if kind == "multi_select":
        names = [] if value is None else value if isinstance(value, list) else [value]
        return {kind: [{"name": str(item)} for item in names]}
    if kind == "date":
        return {kind: {"start": value} if isinstance(value, str) else value}
    if kind in {"relation", "people"}:
        ids = [] if value is None else value if isinstance(value, list) else [value]
        return {kind: [{"id": str(item)} for item in ids]}
    raise ServiceError(UNKNOWN, f"property '{name}' is of type {kind} and cannot be set")


def from_notion(properties: Mapping[str, Any]) -> JSONObject:
    """Return property objects as plain values."""
    return {name: _read(found) for name, found in properties.items()}


def _read(found: Mapping[str, Any]) -> Any:  # Any: a JSON value
    kind = str(found.get("type"))
    value = found.get(kind)
    if kind in TEXTS:
        return plain(value or ())
    if kind in NAMED:
        return None if value is None else value.get("name")
    if kind in {"multi_select", "relation", "people"}:
        return [item.get("name") or item.get("id") for item in value or ()]
    if kind == "date":
        return _date(value)
    if kind in {"formula", "rollup"} and isinstance(value, Mapping):
        return value.get(str(value.get("type")))
    return value


def _date(value: Mapping[str, Any] | None) -> Any:  # Any: a JSON value
    if value is None or not value.get("end"):
        return None if value is None else value.get("start")
    return {"start": value.get("start"), "end": value["end"]}


def types_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the types of properties by name."""
    return {name: str(found.get("type")) for name, found in properties.items()}


def title_of(properties: Mapping[str, Any]) -> str:
    """Return the title among a page's properties."""
    return next(
        (plain(p.get("title") or ()) for p in properties.values() if p.get("type") == "title"), ""
    )
