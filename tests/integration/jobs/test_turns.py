import base64
import json

import pytest
from redis import Redis

from app.core.messaging import Message
from app.jobs.messages import TakeTurn
from app.jobs.turns import TurnPublisher, Turns


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


class Recorder:
    def __init__(self):
        self.sent = []

    def publish(self, messages):
        self.sent += messages


class Other(Message):
    name = "other"


def test_turns_per_app_and_live_node(redis):
    turns = Turns(redis, per_app=2)
    assert [turns.send(TakeTurn("crm")) for _ in range(3)] == [True, True, False]
    assert turns.send(TakeTurn("hr"))
    redis.sadd("nodes", "a", "b")
    assert [turns.send(TakeTurn("crm")) for _ in range(3)] == [True, True, False]


def test_what_is_given_back_can_be_taken_again(redis):
    turns = Turns(redis, per_app=2)
    for _ in range(2):
        turns.send(TakeTurn("crm"))
    turns.give_back("crm")
    assert [turns.send(TakeTurn("crm")) for _ in range(2)] == [True, False]
    turns.give_back("crm", 99)
    assert redis.get("turns:crm") is None
    turns.give_back("crm")
    assert redis.get("turns:crm") is None


def test_a_count_that_nobody_gives_back_runs_out(redis):
    turns = Turns(redis, per_app=2)
    turns.send(TakeTurn("crm"))
    turns.send(TakeTurn("crm"))
    turns.give_back("crm")
    assert 0 < redis.pttl("turns:crm") <= 10_000


def test_unseen_apps(redis):
    turns = Turns(redis, per_app=2)
    turns.seen("a")
    turns.renew("b")
    assert turns.unseen(["a", "b", "c"]) == ["c"]
    assert turns.unseen([]) == []


def test_only_turns_are_kept_back(redis):
    recorder = Recorder()
    publisher = TurnPublisher(recorder, Turns(redis, per_app=1))
    publisher.publish([TakeTurn("crm"), Other(), TakeTurn("crm"), TakeTurn("hr")])
    assert recorder.sent == [Other()]
    bodies = [base64.b64decode(json.loads(sent)["body"]) for sent in redis.lrange("jobs", 0, -1)]
    assert [json.loads(body)[1]["app_id"] for body in bodies] == ["hr", "crm"]


def test_without_redis_every_turn_is_tried_and_nothing_raises():
    turns = Turns(Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2), per_app=1)
    assert turns.send(TakeTurn("crm")) is None
    turns.give_back("crm")
    turns.seen("crm")
    turns.renew("crm")
    assert turns.unseen(["crm"]) == ["crm"]
    recorder = Recorder()
    TurnPublisher(recorder, turns).publish([TakeTurn("crm"), TakeTurn("crm")])
    assert recorder.sent == [TakeTurn("crm"), TakeTurn("crm")]
