"""Answers of a node: a lone one is written by whoever has it, unless Redis is slow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from app.core.replies import Reply
from app.core.wire import Wire
from app.workers import logs
from tasks.outgoing import Outgoing
from tests.support.stack import wait_until
from workers_runtime.protocol import LogEntry

TIMEOUT_S = 0.5


@pytest.fixture
def outgoing(redis_url: str) -> Iterator[Outgoing]:
    """Without its thread, so that only what is written on the spot is written."""
    made = Outgoing(Wire(redis_url, timeout_s=TIMEOUT_S), node="n", identity="n/1", log_buffer=100)
    yield made
    made.stop()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def _answer(outgoing: Outgoing, question: str) -> None:
    outgoing.answer("replies:a", question, lambda: Reply(question, "n/1", "result"))


def _answered(redis: Redis) -> list[str]:
    return [Reply.decode(raw).question for raw in redis.lrange("replies:a", 0, -1)]


def test_a_lone_answer_is_written_on_the_spot(outgoing: Outgoing, redis: Redis) -> None:
    outgoing.take("replies:a", "q1")
    _answer(outgoing, "q1")
    assert _answered(redis) == ["q1"]
    assert redis.ttl("replies:a") > 0
    outgoing.start()


def test_answers_among_others_are_gathered(outgoing: Outgoing, redis: Redis) -> None:
    outgoing.take("replies:a", "q1")
    outgoing.take("replies:a", "q2")
    _answer(outgoing, "q1")
    assert _answered(redis) == []
    # It comes after what waits.
    _answer(outgoing, "q2")
    assert _answered(redis) == []
    outgoing.start()
    wait_until(lambda: _answered(redis) == ["q1", "q2"])


def test_an_answer_does_not_overtake_the_lines_of_its_call(
    outgoing: Outgoing, redis: Redis
) -> None:
    outgoing.log_lines([LogEntry(app_id="crm", level="info", message="working", ts=1.0)])
    _answer(outgoing, "q1")
    assert _answered(redis) == []
    outgoing.start()
    wait_until(lambda: _answered(redis) == ["q1"])
    assert redis.xlen(logs.KEY_PREFIX + "crm") == 1


def test_a_slow_redis_holds_up_one_answer_only(outgoing: Outgoing, redis: Redis) -> None:
    redis.client_pause(20_000, all=False)
    try:
        began = time.monotonic()
        _answer(outgoing, "q1")
        waited_s = time.monotonic() - began
        assert waited_s >= TIMEOUT_S * 0.9
        for number in range(2, 6):
            _answer(outgoing, f"q{number}")
        assert time.monotonic() - began < waited_s + TIMEOUT_S
    finally:
        redis.client_unpause()
    outgoing.start()
    wait_until(lambda: sorted(set(_answered(redis))) == [f"q{n}" for n in range(1, 6)])
