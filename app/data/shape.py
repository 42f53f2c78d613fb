"""Typed reading of a manifest's JSON, with the contract's error texts.

Source: REST contract part 20, section 3.9 (R1, R3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from app.core.errors import Invalid
from app.core.ids import is_identifier
from app.data.values import WrongValue, compact

T = TypeVar("T")
MISSING = object()
TYPES: Mapping[type, str] = {
    str: "a string",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
}
RULE = (
    "must be snake_case: a lowercase letter, then lowercase letters, digits or underscores"
    " (63 at most)"
)


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON object of a manifest together with its path."""

    body: Mapping[str, Any]  # Any: JSON values
    path: str = ""

    def where(self, key: str) -> str:
        """Return the JSON path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def required(self, key: str, kind: type[T]) -> T:
        """Return the value of a key.

        Raises:
            Invalid: missing, null, or of another JSON type.
        """
        if self.body.get(key) is None:
            raise Invalid(f"manifest: '{self.where(key)}' is required")
        return self._typed(key, kind)

    def optional(self, key: str, kind: type[T], default: T) -> T:
        """Return the value of a key, or the default when it is missing or null."""
        return default if self.body.get(key) is None else self._typed(key, kind)

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """Return the value of a key, or None when it is missing or null."""
        return None if self.body.get(key) is None else self._typed(key, kind)

    def objects(self, key: str) -> list[Node]:
        """Return the elements of an optional array of objects."""
        found = []
        for position, item in enumerate(self.optional(key, list, [])):
            path = f"{self.where(key)}[{position}]"
            if not isinstance(item, dict):
                raise Invalid(f"manifest: '{path}' must be an object")
            found.append(Node(item, path))
        return found

    def text(self, key: str) -> str:
        """Return a required string that is not empty."""
        value = self.required(key, str)
        if not value:
            raise Invalid(f"manifest: '{self.where(key)}' is required")
        return value

    def identifier(self, key: str, label: str) -> str:
        """Return a required identifier."""
        return identifier(self.required(key, str), label)

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self.body[key]
        if not isinstance(value, kind):
            raise Invalid(f"manifest: '{self.where(key)}' must be {TYPES[kind]}")
        return value


def identifier(text: str, label: str) -> str:
    """Return a text that may name an app, an entity or a field.

    Raises:
        Invalid: rule R1 is broken.
    """
    if not is_identifier(text):
        raise Invalid(f"{label} '{text}' {RULE}")
    return text


def distinct(values: list[str], thing: str) -> None:
    """Raise ``Invalid`` if a value occurs twice (rule R5)."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise Invalid(f"duplicate {thing} '{value}'")
        seen.add(value)


def storable(body: Mapping[str, Any]) -> None:  # Any: JSON values
    """Raise ``Invalid`` if Postgres could not store the JSON value."""
    try:
        compact(body)
    except WrongValue as exc:
        raise Invalid("manifest: numbers must be finite and text must not contain U+0000") from exc
