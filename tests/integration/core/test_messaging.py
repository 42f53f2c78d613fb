"""What we put on Redis is what Celery would have put there."""

import base64
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
from redis import Redis

from app.core.errors import NotReady
from app.core.messaging import CeleryPublisher, Message, Queue, make_celery


@dataclass(frozen=True, slots=True)
class Look(Message):
    name: ClassVar[str] = "tests.look"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    what: str
    places: list[str | None]


MESSAGE = Look("ümläut € \\ \"'", ["a", None])


@pytest.fixture
def celery(settings):
    celery = make_celery(settings)
    yield celery
    celery.close()


@pytest.fixture
def queue(settings):
    with Redis.from_url(settings.redis.url) as redis:
        yield lambda: json.loads(redis.rpop(Queue.MAINTENANCE.value))


def same_shape(ours, theirs):
    """Compare the values that are not made up for each message."""
    bodies = [json.loads(base64.b64decode(each.pop("body"))) for each in (ours, theirs)]
    assert bodies[0] == bodies[1]
    for part, own in (
        ("headers", {"id", "root_id", "eta", "expires", "argsrepr", "kwargsrepr"}),
        ("properties", {"correlation_id", "delivery_tag", "reply_to"}),
    ):
        mine, celerys = ours.pop(part), theirs.pop(part)
        # Means something to RabbitMQ only.
        celerys.pop("expiration", None)
        assert mine.keys() == celerys.keys()
        for name in own & mine.keys():
            assert type(mine[name]) is type(celerys[name]), name
        assert {k: v for k, v in mine.items() if k not in own} == {
            k: v for k, v in celerys.items() if k not in own
        }
    assert ours == theirs


@pytest.mark.parametrize("kind", ["publish", "deliver", "delay"])
def test_a_message_is_celerys_own(celery, queue, kind):
    publisher = CeleryPublisher(celery)
    send, options = {
        "publish": (lambda: publisher.publish([MESSAGE]), {}),
        "deliver": (lambda: publisher.deliver(MESSAGE, expires_s=30), {"expires": 30}),
        "delay": (lambda: publisher.delay(MESSAGE, delay_s=5), {"countdown": 5}),
    }[kind]
    send()
    celery.send_task(
        MESSAGE.name,
        kwargs=MESSAGE.arguments(),
        queue=MESSAGE.queue,
        ignore_result=True,
        **options,
    )
    same_shape(queue(), queue())


def test_who_comes_second_waits_for_nobody(celery, queue):
    publisher = CeleryPublisher(celery)
    with publisher._lock:  # Another call is on its way, on a connection that may be stuck.
        publisher.deliver(MESSAGE, expires_s=30)
    publisher.deliver(MESSAGE, expires_s=30)
    same_shape(queue(), queue())


def test_a_broker_that_is_away_is_told_to_those_who_wait(settings):
    from dataclasses import replace

    dead = replace(settings, redis=replace(settings.redis, url="redis://127.0.0.1:1/0"))
    celery = make_celery(dead)
    publisher = CeleryPublisher(celery)
    publisher.publish([MESSAGE])
    publisher.delay(MESSAGE, delay_s=1)
    with pytest.raises(NotReady, match="service not ready"):
        publisher.deliver(MESSAGE, expires_s=1)
    celery.close()
