"""Permission keys: the one implementation of "match" and "intersect".

Source: REST contract part 10, sections 7.2 and 7.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

EVERYTHING = "*"
KEY = re.compile(r"[a-z0-9_:.*]+")


def is_key(text: str) -> bool:
    """Tell whether a text is spelled like a permission key."""
    return KEY.fullmatch(text) is not None


@dataclass(frozen=True)
class Permissions:
    """An immutable set of granted keys with wildcard matching."""

    keys: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[str]) -> Permissions:
        """Return the set of the given grants."""
        return cls(frozenset(keys))

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(key[:-1] for key in self.keys if key.endswith(":*"))

    @property
    def everything(self) -> bool:
        """Whether these are the rights of an administrator."""
        return EVERYTHING in self.keys

    def match(self, required: str) -> bool:
        """Tell whether some grant covers ``required``.

        ``*`` covers everything; ``X:*`` covers every key that begins with ``X:``; any other
        grant covers only the same text.
        """
        return self.everything or required in self.keys or required.startswith(self._prefixes)

    def intersect(self, other: Permissions) -> Permissions:
        """Return what both sets grant (delegated authority); never more than either."""
        if self.everything:
            return other
        if other.everything:
            return self
        return Permissions.of(
            {key for key in self.keys if other.match(key)}
            | {key for key in other.keys if self.match(key)}
        )

    def sorted(self) -> list[str]:
        """Return the grants in order, wildcards not expanded."""
        return sorted(self.keys)
