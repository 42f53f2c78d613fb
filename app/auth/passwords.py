"""Password hashing: Argon2id, a bounded number at a time, off the event loop.

Source: REST contract part 10, section 4.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

T = TypeVar("T")

MAX_PASSWORD_BYTES = 1024

# The hash of a password nobody knows, with today's parameters: what an unknown address is
# checked against, so that it takes as long as a known one.
DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$"
    "K2psjIurcaYwk/li5vmC+w$yDarnMznFQmKjpycQnQfTcgxG6NDz9IVnvNTFOqqCCU"
)


class PasswordHasher:
    """Hashes and verifies passwords.

    Argon2 keeps a core busy for tens of milliseconds, so at most ``concurrency`` hashes of one
    process run at a time and the others wait: sign-ins never starve the rest of the API.
    """

    def __init__(self, concurrency: int) -> None:
        """Take the number of hashes that may run at a time."""
        self._argon2 = argon2.PasswordHasher(
            time_cost=2, memory_cost=19_456, parallelism=1, type=argon2.Type.ID
        )
        self._slots = threading.BoundedSemaphore(concurrency)

    def hash(self, password: str) -> str:
        """Return the PHC string of a password."""
        return self._work(lambda: self._argon2.hash(password))

    def verify(
        self,
        stored: str | None,
        password: str,
        *,
        admit: Callable[[], None] = lambda: None,
    ) -> bool:
        """Tell whether a password fits; takes the same time when there is no hash.

        Args:
            stored: the PHC string, or None.
            password: what was typed.
            admit: called when it is this password's turn; may raise.
        """
        if len(password.encode()) > MAX_PASSWORD_BYTES:
            stored, password = None, ""
        fits = self._work(lambda: self._matches(stored or DUMMY_HASH, password), admit)
        return fits and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Tell whether a hash was made with other parameters."""
        return self._argon2.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._argon2.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _work(self, function: Callable[[], T], admit: Callable[[], None] = lambda: None) -> T:
        with self._slots:
            admit()
            return run_off_loop(function)


def run_off_loop(function: Callable[[], T]) -> T:
    """Run CPU work that releases the GIL without holding up the other greenlets.

    Under gunicorn's gevent workers a call into C blocks every request of the process; gevent's
    native threads let them go on. In an ordinary thread the call is simply made.
    """
    if not _gevent_patched():
        return function()
    import gevent

    result: T = gevent.get_hub().threadpool.apply(function)
    return result


@cache
def hasher(concurrency: int) -> PasswordHasher:
    """Return the hasher of this process."""
    return PasswordHasher(concurrency)


def _gevent_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))
