"""What the API sends to nodes about workers.

Messages of queue ``rpc`` and ``deploys`` answer to a reply list (``app.core.replies``); they
carry its key and the id of the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.messaging import Command, Message, Queue

STOP = "stop"
FORGET = "forget"
REFRESH = "refresh"
END_USER = "end_user"


@dataclass(frozen=True, slots=True)
class CallRPC(Message):
    """Hand calls of one app to its process: all that came in since the last message.

    Attributes:
        calls: fields of ``app.workers.rpc.Call`` in order.
    """

    name: ClassVar[str] = "rpc.call"
    queue: ClassVar[Queue] = Queue.RPC
    app_id: str
    reply_to: str
    calls: list[list[Any]]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class ActivateDeployment(Message):
    """Make a stored archive the app's current deployment.

    Attributes:
        give_up_at: Unix time until which another deploy of the app is waited for.
    """

    name: ClassVar[str] = "deploys.activate"
    queue: ClassVar[Queue] = Queue.DEPLOYS
    deployment_id: str
    question: str
    reply_to: str
    give_up_at: float


@dataclass(frozen=True, slots=True)
class StartWorker(Message):
    """Start a process of an app on the node that takes this message."""

    name: ClassVar[str] = "workers.start"
    queue: ClassVar[Queue] = Queue.DEPLOYS
    app_id: str
    question: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class ControlWorkers(Command):
    """Tell every node about apps or users.

    Attributes:
        action: ``stop``, ``forget`` and ``refresh`` apps, ``end_user``: end the calls of users.
        subjects: app ids, or user ids.
        question: a question every node answers when it is done; empty = none.
        reply_to: its reply list.
    """

    name: ClassVar[str] = "trellis_workers"
    queue: ClassVar[Queue] = Queue.DEPLOYS
    action: str
    subjects: list[str]
    question: str = ""
    reply_to: str = ""
