"""Values of the field types: how JSON becomes a bound value, and what Postgres calls the type.

Source: REST contract part 20, sections 3.4 and 1.3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from app.core.ids import UUID_TEXT

JSONValue = Any  # a JSON value: None, bool, int, float, str, list or dict
Bound = str | float | bool | list[str] | list[float] | None


class Kind(StrEnum):
    """Kinds of columns; the value is the type's name in Postgres' catalog."""

    TEXT = "text"
    NUMBER = "double precision"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp with time zone"
    JSON = "jsonb"
    UUID = "uuid"
    TEXTS = "text[]"
    NUMBERS = "double precision[]"

    @property
    def is_array(self) -> bool:
        """Whether a value is a list."""
        return self in {Kind.TEXTS, Kind.NUMBERS}

    @property
    def label(self) -> str:
        """The type as people write it in SQL."""
        return "TIMESTAMPTZ" if self is Kind.TIMESTAMP else self.value.upper()


KINDS: Mapping[str, Kind] = {
    "text": Kind.TEXT,
    "file": Kind.TEXT,
    "number": Kind.NUMBER,
    "boolean": Kind.BOOLEAN,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "json": Kind.JSON,
    "uuid": Kind.UUID,
    "entity_link": Kind.UUID,
    "[text]": Kind.TEXTS,
    "[number]": Kind.NUMBERS,
}
NUMBER_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DATE_TEXT = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
TIMESTAMP_TEXT = re.compile(
    r"(\d{4}-\d{2}-\d{2})"
    r"([Tt ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})?)?",
    re.ASCII,
)
ESCAPED_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")
BOOLEANS: Mapping[Any, bool] = {
    "true": True,
    "1": True,
    "false": False,
    "0": False,
    1: True,
    0: False,
}


class WrongValue(Exception):
    """A JSON value does not fit a field type."""


def kind_of(type_name: str) -> Kind:
    """Return the column kind of a field type; unknown names are text."""
    return KINDS.get(type_name, Kind.TEXT)


def compact(value: JSONValue) -> str:
    """Return compact JSON.

    Raises:
        WrongValue: the value holds an infinity or U+0000, which Postgres cannot store.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as exc:
        raise WrongValue from exc
    if ESCAPED_NUL.search(text):
        raise WrongValue
    return text


def convert(type_name: str, kind: Kind, value: JSONValue) -> Bound:
    """Return the bound value of a non-null JSON value for a field.

    Args:
        type_name: type of the field as declared (``file`` is stricter than ``text``).
        kind: its column kind.
        value: what the client sent.

    Raises:
        WrongValue: the contract's table does not allow it.
    """
    if type_name in {"file", "entity_link"} and not isinstance(value, str):
        raise WrongValue
    return CONVERTERS[kind](value)


def scalar_text(value: JSONValue) -> str:
    """Return the text form of a scalar as filters use it: strings as they are, else JSON."""
    return value if isinstance(value, str) else compact(value)


def _text(value: JSONValue) -> str:
    text = scalar_text(value)
    if "\0" in text:
        raise WrongValue
    return text


def _number(value: JSONValue) -> float:
    if isinstance(value, str) and NUMBER_TEXT.fullmatch(value) is None:
        raise WrongValue
    if not isinstance(value, bool | int | float | str):
        raise WrongValue
    return _finite(value)


def _finite(value: float | str) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError) as exc:
        raise WrongValue from exc
    if not math.isfinite(number):
        raise WrongValue
    return number


def _boolean(value: JSONValue) -> bool:
    if not isinstance(value, bool | int | str) or value not in BOOLEANS:
        raise WrongValue
    return BOOLEANS[value]


def _date(value: JSONValue) -> str:
    if not isinstance(value, str) or DATE_TEXT.fullmatch(value) is None:
        raise WrongValue
    try:
        date.fromisoformat(value)
    except ValueError as exc:
        raise WrongValue from exc
    return value


def _timestamp(value: JSONValue) -> str:
    match = TIMESTAMP_TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise WrongValue
    day, _, clock, fraction, offset = match.groups()
    text = f"{day}T{clock or '00:00:00'}{(fraction or '.0')[:7].ljust(7, '0')}"
    try:
        moment = datetime.fromisoformat(text + (offset or "Z").upper().replace("Z", "+00:00"))
        return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError) as exc:
        raise WrongValue from exc


def _uuid(value: JSONValue) -> str:
    if not isinstance(value, str) or UUID_TEXT.fullmatch(value) is None:
        raise WrongValue
    return value.lower()


def _texts(value: JSONValue) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WrongValue
    if any("\0" in item for item in value):
        raise WrongValue
    return value


def _numbers(value: JSONValue) -> list[float]:
    if not isinstance(value, list):
        raise WrongValue
    if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
        raise WrongValue
    return [_finite(item) for item in value]


CONVERTERS: Mapping[Kind, Callable[[JSONValue], Bound]] = {
    Kind.TEXT: _text,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.JSON: compact,
    Kind.UUID: _uuid,
    Kind.TEXTS: _texts,
    Kind.NUMBERS: _numbers,
}


def input_text(value: Bound) -> str:
    """Return a bound value in the text form that Postgres' input functions read."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _element(item: str | float) -> str:
    if isinstance(item, float):
        return input_text(item)
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
