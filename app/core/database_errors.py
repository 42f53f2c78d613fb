"""What the database's errors mean to a client, over HTTP or in app code.

Source: REST contract part 10, section 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core import errors

ConstraintErrors = Mapping[str, Callable[[], errors.AppError]]
"""Names of constraints, and the errors their violation means."""

NUL_TEXT: Final = "text must not contain the character U+0000"
STATES: Final[Mapping[str, tuple[type[errors.AppError], str]]] = {
    "57014": (errors.Failed, "statement timed out"),
    "22P05": (errors.Invalid, NUL_TEXT),
}
CONNECTION_CLASSES: Final = ("08", "57P")


def translate(exc: SQLAlchemyError, constraints: ConstraintErrors) -> errors.AppError | None:
    """Return what a database error means to the client; None for a bug of ours."""
    if isinstance(exc, PoolTimeout):
        return errors.NotReady("database not available")
    original: Any = getattr(exc, "orig", None)  # Any: psycopg2's errors are untyped
    if isinstance(original, ValueError) and "NUL" in str(original):
        return errors.Invalid(NUL_TEXT)
    if isinstance(exc, IntegrityError):
        make = constraints.get(original.diag.constraint_name or "")
        return None if make is None else make()
    state = getattr(original, "pgcode", None) or ""
    if state in STATES:
        kind, text = STATES[state]
        return kind(text)
    if isinstance(exc, OperationalError | InterfaceError) and (
        exc.connection_invalidated or not state or state.startswith(CONNECTION_CLASSES)
    ):
        return errors.NotReady("database not available")
    return None
