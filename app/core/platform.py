"""What a process of the platform is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis import Redis
from sqlalchemy import Engine

from app.core.crypto import Cipher
from app.core.messaging import Publisher
from app.core.replies import Replies
from app.core.uow import UnitOfWorkFactory
from config.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Platform:
    """The long-lived parts that web processes and Celery workers share.

    Attributes:
        uow: opens units of work; the only way to write.
        redis: text client with short timeouts; everything in it may vanish at any time.
        cipher: the vault's cipher.
        replies: puts questions to nodes and waits for their answers.
    """

    settings: Settings
    engine: Engine
    uow: UnitOfWorkFactory
    publisher: Publisher
    redis: Redis
    cipher: Cipher
    replies: Replies
    _parts: dict[object, Any] = field(default_factory=dict, repr=False)  # Any: by their makers

    def part(self, make: Callable[[Platform], T]) -> T:
        """Return what a slice keeps for as long as the process lives, made when first asked for.

        Args:
            make: makes it; a function or class of a module, which is also its name.
        """
        found: T = self._parts.get(make) or self._parts.setdefault(make, make(self))
        return found
