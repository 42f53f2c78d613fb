"""The one table from errors to statuses. Every error body is ``{"error": "<text>"}``.

Source: REST contract part 10, section 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask, Response, jsonify
from marshmallow import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from app.core import errors
from app.core.database_errors import NUL_TEXT, ConstraintErrors, translate

log = structlog.get_logger(__name__)

STATUS: tuple[tuple[type[errors.AppError], int], ...] = (
    (errors.Invalid, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.TooMany, 429),
    (errors.Failed, 500),
    (errors.NotReady, 503),
)
HTTP_TEXTS = {
    404: "not found",
    405: "method not allowed",
    413: "request body too large",
}
FIELD_TEXTS = {
    "Missing data for required field.": "is required",
    "Field may not be null.": "is required",
    "Not a valid string.": "must be a string",
    "Not a valid integer.": "must be an integer",
    "Not a valid number.": "must be a number",
    "Not a valid boolean.": "must be a boolean",
    "Not a valid UUID.": "must be a UUID",
    "Not a valid list.": "must be an array",
    "Not a valid mapping type.": "must be an object",
    "Invalid input type.": "must be an object",
    "Not a valid datetime.": "must be a timestamp",
    "Not a valid URL.": "must be a URL",
}


def answer(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error response."""
    response = jsonify(error=text)
    response.status_code = status
    response.headers.update(headers or {})
    return response


def register(app: Flask, constraints: ConstraintErrors) -> None:
    """Install the handlers of every kind of error.

    Args:
        app: the Flask app.
        constraints: database constraint names and the errors their violation means.
    """

    def database_error(exc: SQLAlchemyError) -> Response:
        translated = translate(exc, constraints)
        return unexpected(exc) if translated is None else app_error(translated)

    app.register_error_handler(errors.AppError, app_error)
    app.register_error_handler(ValidationError, validation_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(SQLAlchemyError, database_error)
    app.register_error_handler(Exception, unexpected)


def app_error(exc: errors.AppError) -> Response:
    """Answer an expected error."""
    status = next((code for kind, code in STATUS if isinstance(exc, kind)), 500)
    headers = {}
    if isinstance(exc, errors.TooMany):
        headers["Retry-After"] = str(exc.retry_after_s)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(exc.message, status, headers)


def http_error(exc: HTTPException) -> Response:
    """Answer what Werkzeug and flask-smorest raise."""
    data: Any = getattr(exc, "data", None)  # Any: flask-smorest hangs a dict on the exception
    if data and isinstance(data.get("messages"), dict):
        return answer(field_text(next(iter(data["messages"].values()))), 400)
    status = exc.code or 500
    if 300 <= status < 400:
        return Response(exc.get_body(), status=status, headers=exc.get_headers())
    allow = dict(exc.get_headers()).get("Allow")
    text = HTTP_TEXTS.get(status) or str(exc.description or exc.name).rstrip(".")
    return answer(text, status, {"Allow": allow} if allow else None)


def validation_error(exc: ValidationError) -> Response:
    """Answer a schema violation."""
    return answer(field_text(exc.messages), 400)


def field_text(messages: Any, path: str = "") -> str:  # Any: marshmallow's nested messages
    """Return the first violation as ``field '<path>' <what is wrong>``."""
    if isinstance(messages, Mapping) and messages:
        key, inner = next(iter(messages.items()))
        step = "" if key == "_schema" else str(key)
        return field_text(inner, f"{path}.{step}".strip("."))
    first = messages[0] if isinstance(messages, list) and messages else messages
    if isinstance(first, Mapping):
        return field_text(first, path)
    known = FIELD_TEXTS.get(str(first))
    if known is None:
        return str(first)
    return f"field '{path}' {known}" if path else "request body must be a JSON object"


def unexpected(exc: Exception) -> Response:
    """Log a bug with its traceback and tell the client nothing about it."""
    if isinstance(exc, ValueError) and "NUL (0x00)" in str(exc):
        # psycopg2 refuses the character itself, before SQLAlchemy could wrap the error.
        return answer(NUL_TEXT, 400)
    log.error("request_failed", exc_info=exc)
    return answer("internal error", 500)
