"""What a client may call itself: addresses, passwords, display names.

Source: REST contract part 10, sections 3 and 5.1.
"""

from __future__ import annotations

import unicodedata

from app.auth.passwords import MAX_PASSWORD_BYTES
from app.core.errors import Invalid

MAX_EMAIL = 254
MAX_DISPLAY_NAME = 255
PASSWORD_RULE = "password needs at least 10 characters with an upper-case letter, a lower-case letter and a digit"  # noqa: S105 - a sentence about passwords


def normalize_email(text: object) -> str:
    """Return an address as it is stored and compared.

    Raises:
        Invalid: it is no address.
    """
    email = text.strip().lower() if isinstance(text, str) else ""
    local, at, domain = email.partition("@")
    if not (local and at and domain) or "@" in domain or len(email) > MAX_EMAIL:
        raise Invalid("a valid email is required")
    if any(_is_blank(char) for char in email):
        raise Invalid("a valid email is required")
    return email


def check_not_reserved(email: str) -> None:
    """Refuse the addresses of principals that are not human.

    Raises:
        Invalid: only the platform itself gives out this address.
    """
    local, _, domain = email.partition("@")
    if domain == "localhost" and (local == "system" or local.startswith(("agent+", "sa+"))):
        raise Invalid("this email is reserved")


def check_password(password: str) -> None:
    """Refuse a password that breaks the rule.

    Raises:
        Invalid: too short, too long, or a class of characters is missing.
    """
    strong = (
        len(password) >= 10
        and any(char.isupper() for char in password)
        and any(char.islower() for char in password)
        and any(char.isdigit() for char in password)
    )
    if not strong:
        raise Invalid(PASSWORD_RULE)
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise Invalid(f"password must not be longer than {MAX_PASSWORD_BYTES} bytes")


def check_display_name(name: str | None) -> None:
    """Refuse a name that is too long.

    Raises:
        Invalid: more than 255 characters.
    """
    if name is not None and len(name) > MAX_DISPLAY_NAME:
        raise Invalid(f"field 'displayName' must be at most {MAX_DISPLAY_NAME} characters long")


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Zs", "Zl", "Zp"}
