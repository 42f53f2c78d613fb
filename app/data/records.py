"""Bodies of writes: which fields they may hold and what their values become.

Source: REST contract part 20, sections 5.4 and 5.6.
"""

from __future__ import annotations

from app.core.errors import Invalid
from app.data.contract import STAMPS, Entity, Field
from app.data.values import Bound, JSONValue, Kind, WrongValue, convert


def for_create(entity: Entity, body: JSONValue) -> dict[str, Bound]:
    """Return the values of a new record, in the entity's order of fields.

    Raises:
        Invalid: the body breaks a rule.
    """
    sent = _sent(entity, body)
    if not sent:
        raise Invalid("nothing to write: send at least one field")
    _known(entity, sent)
    _complete(
        [
            name
            for name, field in entity.writable.items()
            if field.required and (sent[name] is None if name in sent else field.default is None)
        ]
    )
    return _values(entity, sent)


def for_update(entity: Entity, body: JSONValue) -> dict[str, Bound]:
    """Return the values a PATCH changes; empty when only system columns were sent.

    Raises:
        Invalid: the body breaks a rule.
    """
    sent = _sent(entity, body)
    sent.pop("id", None)
    _known(entity, sent)
    writable = entity.writable
    _complete([n for n in writable if n in sent and sent[n] is None and writable[n].required])
    return _values(entity, sent)


def _sent(entity: Entity, body: JSONValue) -> dict[str, JSONValue]:
    if not isinstance(body, dict):
        raise Invalid("body must be an object")
    if not body:
        raise Invalid("body must not be empty")
    system = STAMPS if entity.text_key else ("id", *STAMPS)
    return {name: value for name, value in body.items() if name not in system}


def _known(entity: Entity, sent: dict[str, JSONValue]) -> None:
    for name in sent:
        if name not in entity.writable:
            raise Invalid(f"unknown field '{name}'")


def _complete(missing: list[str]) -> None:
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise Invalid(f"missing required field: {names}")


def _values(entity: Entity, sent: dict[str, JSONValue]) -> dict[str, Bound]:
    return {
        name: value_of(field, sent[name]) for name, field in entity.writable.items() if name in sent
    }


def value_of(field: Field, value: JSONValue) -> Bound:
    """Return the bound value of one field.

    Raises:
        Invalid: wrong type, or not one of the allowed values.
    """
    if value is None:
        return None
    try:
        converted = convert(field.type, field.kind, value)
    except WrongValue as exc:
        raise Invalid(f"field '{field.name}': expected {field.type}") from exc
    if field.enum and field.kind in {Kind.TEXT, Kind.TEXTS}:
        for item in converted if isinstance(converted, list) else [converted]:
            if item not in field.enum:
                raise not_allowed(field, str(item))
    return converted


def not_allowed(field: Field, text: str) -> Invalid:
    """Return the error of a value outside ``enum_values``."""
    return Invalid(f"field '{field.name}': '{text}' is not one of: {', '.join(field.enum)}")
