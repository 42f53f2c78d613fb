"""Answers to questions that this process puts to nodes: one Redis list, one reader.

A question travels as a Celery message that carries the name of our list and an id; whoever works
on it pushes the answer there. The reader also watches the nodes, so that nobody waits for a node
that died. Celery's result backend costs three times as much per question.

Source: ADR 0003.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.core.errors import NotReady
from app.core.messaging import Queue
from app.core.nodes import read_nodes
from app.core.wire import Wire

log = structlog.get_logger(__name__)

KEY_PREFIX = "replies:"
POLL_S = 0.5
DOWN_AFTER_S = 1.0
BATCH = 500
LIST_TTL_S = 120
LOST_AFTER_S = 1.5


class Silence(StrEnum):
    """Why there is no answer."""

    TIMEOUT = "timeout"  # somebody has the question, but not the answer
    UNTAKEN = "untaken"  # time is up and nobody took the question
    NO_NODE = "no_node"  # no node is alive
    NODE_DIED = "node_died"  # the node that had the question is gone
    NO_REDIS = "no_redis"  # Redis is away


class NoAnswer(Exception):
    """A question stays without an answer."""

    def __init__(self, reason: Silence) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reply:
    """One element of a reply list.

    Attributes:
        question: id of the question.
        node: who answers, ``name/boot``.
        kind: what the answer is; ``taken`` only tells who works on the question.
        text: an error text, or nothing.
        body: the answer's raw JSON, handed on as it is.
    """

    question: str
    node: str
    kind: str
    text: str = ""
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the list element: a JSON header, LF, the body."""
        header = [self.question, self.node, self.kind, self.text]
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + self.body

    @classmethod
    def decode(cls, raw: bytes) -> Reply:
        """Read a list element."""
        header, _, body = raw.partition(b"\n")
        question, node, kind, text = json.loads(header)
        return cls(question, node, kind, text, body)


TAKEN = "taken"


@dataclass(slots=True)
class Question:
    """A question without its answer yet; made by ``Replies.ask``."""

    id: str
    reply_to: str
    queue: Queue
    waiting_for: set[str] | None = None
    asked_at: float = field(default_factory=time.monotonic)
    holder: str | None = None
    replies: list[Reply] = field(default_factory=list)
    silence: Silence | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, deadline: float) -> Reply:
        """Return the answer.

        Args:
            deadline: by the monotonic clock.

        Raises:
            NoAnswer: there will be none, or not in time.
        """
        self._await(deadline)
        return self.replies[0]

    def wait_all(self, deadline: float) -> list[Reply]:
        """Return the answers of all nodes that were asked and did not die.

        Raises:
            NoAnswer: some live node did not answer in time.
        """
        self._await(deadline)
        return self.replies

    def _await(self, deadline: float) -> None:
        if not self.done.wait(max(0.0, deadline - time.monotonic())):
            raise NoAnswer(Silence.UNTAKEN if self.holder is None else Silence.TIMEOUT)
        if self.silence is not None:
            raise NoAnswer(self.silence)

    def take(self, reply: Reply) -> None:
        """Note an answer. Called by the reader."""
        if reply.kind == TAKEN:
            self.holder = reply.node
            return
        self.replies.append(reply)
        if self.waiting_for is not None:
            self.waiting_for.discard(reply.node)
        if not self.waiting_for:
            self.done.set()

    def fail(self, reason: Silence) -> None:
        """End without an answer."""
        self.silence = reason
        self.done.set()

    def nodes_are(self, alive: Collection[str]) -> None:
        """Stop waiting for nodes that are gone. Called by the reader."""
        if self.waiting_for is not None:
            self.waiting_for &= set(alive)
            if not self.waiting_for:
                self.done.set()
        elif not alive:
            self.fail(Silence.NO_NODE if self.holder is None else Silence.NODE_DIED)
        elif self.holder is not None and self.holder not in alive:
            self.fail(Silence.NODE_DIED)


class Replies:
    """This process's reply list. Thread-safe; starts its reader with the first question."""

    def __init__(self, redis_url: str, timeout_s: float) -> None:
        self._redis_url = redis_url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pid = 0
        self._questions: dict[str, Question] = {}
        self._numbers = itertools.count(1)
        self._alive: frozenset[str] = frozenset()
        self._checked_at = float("-inf")
        self._death_at: float | None = None
        self._key = ""
        self._closed = threading.Event()
        self._one_command = True

    def close(self) -> None:
        """End the reader; questions asked later stay without an answer."""
        self._closed.set()

    @contextmanager
    def ask(self, queue: Queue, nodes: Collection[str] | None = None) -> Iterator[Question]:
        """Open a question; send it inside the block, then wait for it.

        Args:
            queue: where the question is put.
            nodes: the nodes that must all answer; None = any one.
        """
        self._start()
        waiting_for = None if nodes is None else set(nodes)
        # Nodes tell the questions of all processes apart by their ids.
        number = f"{self._key.removeprefix(KEY_PREFIX)}{next(self._numbers):x}"
        question = Question(number, self._key, queue, waiting_for)
        if waiting_for is not None and not waiting_for:
            question.done.set()
        self._questions[question.id] = question
        try:
            yield question
        finally:
            self._questions.pop(question.id, None)

    def live_nodes(self) -> frozenset[str]:
        """Return the live nodes as ``name/boot``, at most a second old.

        Raises:
            NotReady: Redis is not reachable.
        """
        if time.monotonic() - self._checked_at < 2 * POLL_S:
            return self._alive
        redis = self._connect()
        try:
            return self._look(redis)
        except (RedisError, OSError) as exc:
            raise NotReady("service not ready") from exc
        finally:
            redis.close()

    def _start(self) -> None:
        # A process that was forked has none of its parent's threads, and needs its own list.
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._questions = {}
            self._key = f"{KEY_PREFIX}{secrets.token_hex(8)}"
            threading.Thread(target=self._read, name="replies", daemon=True).start()
            self._pid = os.getpid()

    def _connect(self) -> Redis:
        return Redis.from_url(
            self._redis_url,
            socket_timeout=self._timeout_s + POLL_S,
            socket_connect_timeout=self._timeout_s,
        )

    def _read(self) -> None:
        redis = self._connect()
        wire = Wire(self._redis_url, timeout_s=self._timeout_s + POLL_S)
        answered_at = time.monotonic()
        while not self._closed.is_set():
            try:
                self._poll(redis, wire)
                answered_at = time.monotonic()
            except (RedisError, OSError) as exc:
                if time.monotonic() - answered_at > DOWN_AFTER_S:
                    self._checked_at = float("-inf")
                    self._fail_all(Silence.NO_REDIS)
                    log.warning("replies_unreachable", reason=type(exc).__name__)
                self._closed.wait(0.2)
        redis.close()
        wire.close()

    def _poll(self, redis: Redis, wire: Wire) -> None:
        for raw in self._pop(wire):
            self._deliver(raw)
        # Whoever has its answer goes first; under gevent it would wait for the next command.
        time.sleep(0)
        if time.monotonic() - self._checked_at >= POLL_S:
            before = self._alive
            alive = self._look(redis)
            if before - alive:
                self._death_at = time.monotonic()
            for question in list(self._questions.values()):
                question.nodes_are(alive)
            self._give_up_lost(redis)

    def _pop(self, wire: Wire) -> Iterator[bytes]:
        """Wait for elements of our list and yield what is there."""
        if self._one_command:
            try:
                (found,) = wire.send(("BLMPOP", POLL_S, 1, self._key, "LEFT", "COUNT", BATCH))
            except ResponseError:
                # Redis 6 has no BLMPOP.
                self._one_command = False
                return
            yield from found[1] if found else ()
            return
        (first,) = wire.send(("BLPOP", self._key, POLL_S))
        if first is not None:
            yield first[1]
            (more,) = wire.send(("LPOP", self._key, BATCH))
            yield from more or ()

    def _give_up_lost(self, redis: Redis) -> None:
        """End questions that a node took off the queue and died with before it could say so.

        Whoever takes a question tells soon. One that nobody has although its queue is empty,
        asked before a node died, will never be answered.
        """
        death = self._death_at
        if death is None or time.monotonic() - death < LOST_AFTER_S:
            return
        self._death_at = None
        suspects = [
            q
            for q in self._questions.values()
            if q.holder is None and q.waiting_for is None and q.asked_at <= death
        ]
        for queue in {q.queue for q in suspects}:
            if redis.llen(queue) != 0:
                # The survivors have not come to it yet: look again later.
                self._death_at = death
                continue
            for question in suspects:
                if question.queue is queue:
                    question.fail(Silence.NODE_DIED)

    def _deliver(self, raw: bytes) -> None:
        reply = Reply.decode(raw)
        question = self._questions.get(reply.question)
        if question is not None:
            question.take(reply)

    def _look(self, redis: Redis) -> frozenset[str]:
        nodes = read_nodes(redis)
        self._alive = frozenset(f"{name}/{boot}" for name, boot in nodes.items())
        self._checked_at = time.monotonic()
        return self._alive

    def _fail_all(self, reason: Silence) -> None:
        for question in list(self._questions.values()):
            question.fail(reason)
