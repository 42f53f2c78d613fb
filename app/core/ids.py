"""Types of identifiers and the checks of identifiers that clients send."""

from __future__ import annotations

import re
from typing import NewType
from uuid import UUID, uuid5

from app.core.errors import Forbidden, Invalid

AppId = NewType("AppId", str)
MsgId = NewType("MsgId", int)
NodeName = NewType("NodeName", str)

SYSTEM_USER_ID = UUID(int=1)
AGENTS = UUID("ee65718e-cd0a-404f-b66e-3c8b59632c8f")
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,62}")
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_identifier(text: str) -> bool:
    """Tell whether a text can name an app, an entity or a field."""
    return IDENTIFIER.fullmatch(text) is not None


def agent_user_id(app_id: str) -> UUID:
    """Return the id of an agent's principal; the same for ever."""
    return uuid5(AGENTS, f"agent:{app_id}")


def parse_uuid(text: str) -> UUID:
    """Return the UUID a client wrote.

    Raises:
        Invalid: it is not spelled like one.
    """
    if UUID_TEXT.fullmatch(text) is None:
        raise Invalid(f"not a valid UUID: '{text}'")
    return UUID(text)


def check_app_id(text: str) -> AppId:
    """Return an app id from a path unless it names a schema of the platform or of Postgres.

    Raises:
        Forbidden: the schema is off limits. Whether the app exists is another question.
    """
    if text in {"trellis", "information_schema"} or text.startswith("pg_"):
        raise Forbidden(f"schema '{text}' is off limits")
    return AppId(text)
