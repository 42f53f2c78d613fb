"""Shapes of declared indexes and checks.

Source: REST contract part 20, sections 4.3 and 4.4 (rule R13).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from app.core.errors import Invalid
from app.data import names
from app.data.contract import STAMPS, JSONObject
from app.data.shape import Node, distinct

SYSTEM_COLUMNS = {"id", *STAMPS}
METHODS = {"btree", "hash", "gist", "gin", "spgist", "brin"}
FORBIDDEN = (";", "--", "/*", "$$", "\0")
OPERATOR_CLASS = re.compile(
    r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?( ?\([a-z0-9_=', ]*\))?", re.IGNORECASE
)
PARAMETER = re.compile(r"[a-z_][a-z0-9_.]*", re.IGNORECASE)
CHOICES = {"sort": ("asc", "desc"), "nulls": ("first", "last")}


def fragment(entity: str, text: str) -> str:
    """Return a piece of SQL that cannot end its statement.

    Raises:
        Invalid: it is empty or holds a separator or a comment.
    """
    if any(token in text for token in FORBIDDEN):
        raise Invalid(f"entity '{entity}': SQL fragment not allowed")
    if not text.strip():
        raise Invalid(f"entity '{entity}': SQL fragment must not be empty")
    return text


def normalise_indexes(node: Node, entity: str, columns: set[str]) -> JSONObject:
    """Return ``{"indexes": [...]}`` in normalised form, or nothing if there are none."""
    indexes = [_index(item, entity, columns) for item in node.objects("indexes")]
    return {"indexes": indexes} if indexes else {}


def normalise_checks(node: Node, entity: str, fields: Sequence[JSONObject]) -> JSONObject:
    """Return ``{"checks": [...]}`` in normalised form, or nothing if there are none."""
    checks = []
    for item in node.objects("checks"):
        expr = fragment(entity, item.text("expr"))
        derived = names.bounded(f"chk_{entity}_{names.digest(' '.join(expr.split()))}")
        checks.append({"name": _name(item, entity, derived), "expr": expr})
    taken = [names.enum_check(entity, f["name"]) for f in fields if "enum_values" in f]
    try:
        distinct([*taken, *(check["name"] for check in checks)], "check")
    except Invalid as exc:
        raise Invalid(f"entity '{entity}': {exc.message}") from exc
    return {"checks": checks} if checks else {}


def _index(node: Node, entity: str, known: set[str]) -> JSONObject:
    elements = node.required("columns", list)
    if not elements:
        raise Invalid(f"entity '{entity}': an index needs at least one column")
    body: JSONObject = {
        "columns": [_element(element, entity, known) for element in elements],
        "unique": node.optional("unique", bool, default=False),
        "using": node.optional("using", str, "btree").lower(),
    }
    if body["using"] not in METHODS:
        raise Invalid(f"entity '{entity}': index method '{body['using']}' is not supported")
    where = node.maybe("where", str)
    if where is not None:
        body["where"] = fragment(entity, where)
    parameters = _parameters(node, entity)
    if parameters:
        body["with"] = parameters
    return {"name": _name(node, entity, _derived_name(entity, body)), **body}


def _name(node: Node, entity: str, derived: str) -> str:
    name = node.maybe("name", str)
    if name is None:
        return derived
    if not 0 < len(name.encode()) <= names.MAX_BYTES or "\0" in name:
        raise Invalid(f"entity '{entity}': name '{name}' must have 1 to {names.MAX_BYTES} bytes")
    return name


def _derived_name(entity: str, body: JSONObject) -> str:
    columns = "_".join(element.get("column", "expr") for element in body["columns"])
    suffix = ("_uq" if body["unique"] else "") + f"_{names.digest(repr(sorted(body.items())))}"
    head = f"ix_{entity}_{columns}".encode()[: names.MAX_BYTES - len(suffix)]
    return head.decode(errors="ignore") + suffix


def _element(raw: Any, entity: str, known: set[str]) -> dict[str, str]:  # Any: a JSON value
    element = {"column": raw} if isinstance(raw, str) else raw
    if not isinstance(element, dict):
        raise Invalid(f"entity '{entity}': an index column must be a string or an object")
    if ("column" in element) == ("expr" in element):
        raise Invalid(f"entity '{entity}': an index column needs exactly one of column and expr")
    keys = [k for k in ("column", "expr", "sort", "nulls", "ops") if element.get(k) is not None]
    for key in keys:
        if not isinstance(element[key], str):
            raise Invalid(f"entity '{entity}': index column: {key} must be a string")
    if "column" in element and element["column"] not in known:
        raise Invalid(f"entity '{entity}': index column '{element['column']}' is not a field")
    return {key: _part(key, element[key], entity) for key in keys}


def _part(key: str, value: str, entity: str) -> str:
    if key in CHOICES:
        if value.lower() not in CHOICES[key]:
            raise Invalid(f"entity '{entity}': index {key} must be {' or '.join(CHOICES[key])}")
        return value.lower()
    if key == "ops":
        fragment(entity, value)
        if OPERATOR_CLASS.fullmatch(value) is None:
            raise Invalid(f"entity '{entity}': '{value}' is not an operator class")
    return fragment(entity, value) if key == "expr" else value


def _parameters(node: Node, entity: str) -> dict[str, str]:
    found = {}
    for key, value in node.optional("with", dict, {}).items():
        text = str(value).lower() if isinstance(value, bool) else value
        if not isinstance(text, str | int | float) or PARAMETER.fullmatch(key) is None:
            raise Invalid(f"entity '{entity}': index parameter '{key}' is not allowed")
        found[key] = fragment(entity, str(text))
    return found
