"""JSON Schema checks (draft 2020-12) of values that clients send.

Texts name the place and the rule and never repeat the value: it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.core.errors import Invalid

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

JSONObject = Mapping[str, Any]  # Any: JSON values
MAX_RULE_CHARS = 200
BROKEN = "the schema it must fit is not valid"


def with_defaults(schema: JSONObject, value: Any) -> Any:  # Any: a JSON value
    """Return a copy of a value in which absent properties have their ``default``."""
    properties = schema.get("properties")
    if not isinstance(value, Mapping) or not isinstance(properties, Mapping):
        return value
    filled = dict(value)
    for name, inner in properties.items():
        if not isinstance(inner, Mapping):
            continue
        if name in filled:
            filled[name] = with_defaults(inner, filled[name])
        elif "default" in inner:
            filled[name] = inner["default"]
    return filled


def check(schema: JSONObject, value: Any, label: str) -> None:  # Any: a JSON value
    """Refuse a value that does not fit a schema; nothing is coerced.

    Raises:
        Invalid: ``<label>: <json path>: <reason>``.
    """
    problem = violation(schema, value)
    if problem is not None:
        path, reason = problem
        raise Invalid(f"{label}: {path}: {reason}")


def violation(schema: JSONObject, value: Any) -> tuple[str, str] | None:  # Any: a JSON value
    """Return JSON path and reason of the most telling violation, or None."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: the library would otherwise fetch a remote ``$ref`` from any address.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        Draft202012Validator.check_schema(schema)
        error = best_match(validator.iter_errors(value))
    except (SchemaError, Unresolvable, re.error, RecursionError):
        return "$", BROKEN
    return None if error is None else (error.json_path, _reason(error))


def _reason(error: ValidationError) -> str:
    rule = error.validator_value
    match error.validator:
        case "required":
            return str(error.message)
        case "type":
            names = [rule] if isinstance(rule, str) else rule
            return f"must be of type {' or '.join(map(str, names))}"
        case "enum":
            return f"must be one of {', '.join(map(str, rule))}"[:MAX_RULE_CHARS]
        case "additionalProperties" | "unevaluatedProperties":
            return "has a property that is not allowed"
        case _:
            return f"does not fit {error.validator} {rule}"[:MAX_RULE_CHARS]
