"""Request bodies: JSON whatever the content type says, and always an object."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask import Request
from marshmallow import Schema
from webargs.flaskparser import FlaskParser

from app.core.errors import Invalid
from workers_runtime.protocol import nested_too_deeply

NOT_JSON = "request body is not valid JSON"
TOO_DEEP = "request body is nested too deeply"


def parse_json(raw: bytes) -> Any:  # Any: a JSON value
    """Return the JSON value of a body.

    Raises:
        Invalid: not JSON in UTF-8; NaN, infinities and lone surrogates count as not JSON; or more
            than 200 arrays and objects in each other.
    """
    try:
        text = raw.decode(json.detect_encoding(raw))
        # As ``json.loads``, which would make a decoder for every body.
        value = DECODER.decode(text.removeprefix("\ufeff"))
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise Invalid(NOT_JSON) from exc
    if nested_too_deeply(raw, value):
        raise Invalid(TOO_DEEP)
    return value


def parse_object(raw: bytes) -> dict[str, Any]:  # Any: JSON values
    """Return the JSON object of a body.

    Raises:
        Invalid: not JSON, or JSON of another type.
    """
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise Invalid("request body must be a JSON object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


DECODER = json.JSONDecoder(parse_constant=_refuse)


class Parser(FlaskParser):
    """Feeds flask-smorest's ``arguments`` decorator by the rules of the contract."""

    DEFAULT_VALIDATION_STATUS = 400

    def load_json(self, req: Request, schema: Schema) -> Any:  # Any: webargs' signature
        """Return the body as a JSON object."""
        return parse_object(req.get_data())
