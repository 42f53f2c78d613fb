"""Errors of the domain. They know no HTTP status; ``app.http.errors`` has the one table."""

from __future__ import annotations

from typing import Final

INVALID_CREDENTIAL: Final = "invalid or expired token"
"""Says no more than this, whatever is wrong with a token."""


class AppError(Exception):
    """Base of every expected error; its text is written for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(AppError):
    """The input breaks a rule."""


class Unauthenticated(AppError):
    """No credential, or a wrong one."""


class Forbidden(AppError):
    """The caller is known and may not do this."""


class NotFound(AppError):
    """The thing does not exist, or does not exist for this caller."""


class Conflict(AppError):
    """The state of other data forbids it."""


class TooLarge(AppError):
    """The input is over a size limit."""


class TooMany(AppError):
    """The caller tried too often.

    Attributes:
        retry_after_s: seconds after which another attempt may succeed.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(AppError):
    """Something the platform needs is away; trying again later may succeed."""


class Outdated(Exception):
    """Something remembered does not hold any more and nothing was done; look and try again."""


class Failed(AppError):
    """Work that was asked for ended in an error whose text the caller may see."""


def missing_permission(key: str) -> Forbidden:
    """Return the error of a caller who lacks ``key``."""
    return Forbidden(f"missing permission: {key}")
