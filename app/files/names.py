"""Names and content types that clients gave, made safe to store and to send back."""

from __future__ import annotations

import re
from urllib.parse import quote

MAX_NAME = 255
UNKNOWN_TYPE = "application/octet-stream"
CONTENT_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?[\w.+-]+=[\w.+-]+){0,4}", re.ASCII)
UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"\\]')


def file_name(given: str) -> str:
    """Return the last part of a path without control characters; never empty."""
    last = re.split(r"[/\\]", given)[-1]
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", last).strip()
    return clean[:MAX_NAME] if clean.strip(".") else "file"


def content_type(given: str) -> str:
    """Return a well-formed content type; anything else is unknown."""
    return given if CONTENT_TYPE.fullmatch(given) else UNKNOWN_TYPE


def attachment(name: str) -> str:
    """Return the ``Content-Disposition`` that saves a file under its name."""
    safe = UNSAFE.sub("", name)
    plain = safe.encode("latin-1", "replace").decode("latin-1")
    if plain == safe:
        return f'attachment; filename="{safe}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe='')}"
