"""The bare connection to Redis: exact answers, and whole again after every kind of error."""

import time

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Away
from redis.exceptions import RedisError, ResponseError

from app.core import wire
from app.core.wire import Wire


@pytest.fixture
def line(redis_url):
    made = Wire(redis_url, timeout_s=2)
    yield made
    made.close()


@pytest.fixture
def others(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


def test_answers_come_in_the_order_of_the_commands(line):
    assert line.send(("RPUSH", "l", "a", b"b", 1), ("LRANGE", "l", 0, -1), ("LPOP", "no")) == [
        3,
        [b"a", b"b", b"1"],
        None,
    ]
    assert line.send(("BLMPOP", 0.1, 1, "l", "LEFT", "COUNT", 9)) == [[b"l", [b"a", b"b", b"1"]]]
    assert line.send(("BLMPOP", 0.01, 1, "l", "LEFT")) == [None]


def test_after_a_refused_command_the_next_gets_its_own_answer(line):
    with pytest.raises(ResponseError):
        line.send(("SET", "k", "v"), ("LPOP", "k"), ("GET", "k"))
    assert line.send(("GET", "k")) == [b"v"]


def test_a_connection_that_was_closed_while_idle_is_noticed_before_use(line, others):
    assert line.send(("CLIENT", "SETNAME", "mine")) == [b"OK"]
    (mine,) = [c["id"] for c in others.client_list() if c["name"] == "mine"]
    others.client_kill_filter(_id=mine)
    time.sleep(wire.LOOK_AFTER_S + 0.05)
    assert line.send(("PING",)) == [b"PONG"]


def test_a_command_is_never_sent_twice(line, others):
    line.send(("CLIENT", "SETNAME", "mine"))
    (mine,) = [c["id"] for c in others.client_list() if c["name"] == "mine"]
    others.client_kill_filter(_id=mine)
    with pytest.raises((RedisError, OSError)):
        line.send(("INCR", "n"))
    assert others.get("n") is None
    assert line.send(("INCR", "n")) == [1]


def test_nobody_there():
    with pytest.raises(Away):
        Wire("redis://127.0.0.1:1/0", timeout_s=0.5).send(("PING",))
