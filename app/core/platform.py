"""What a process of the platform is made of."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis
from sqlalchemy import Engine

from app.core.crypto import Cipher
from app.core.messaging import Publisher
from app.core.replies import Replies
from app.core.uow import UnitOfWorkFactory
from config.settings import Settings


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
