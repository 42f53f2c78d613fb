"""The floor: Flask and Celery as everybody would wire them, with Celery's Redis result backend."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from celery import Celery
from flask import Flask, Response, jsonify, request
from redis import Redis

celery = Celery("plain", broker=os.environ["PLAIN_REDIS"], backend=os.environ["PLAIN_REDIS"])
celery.conf.update(result_expires=60, worker_prefetch_multiplier=1)
app = Flask(__name__)
redis = Redis.from_url(os.environ["PLAIN_REDIS"], max_connections=2000)


@celery.task(name="echo")
def echo(value: object) -> object:
    return value


@app.post("/rpc")
def rpc():
    return jsonify(echo.delay(request.get_json()["params"]).get(timeout=30))


@celery.task(name="say")
def say() -> None:
    redis.publish("lines", f"@{time.time():.6f}@")


@app.get("/logs")
def logs():
    lines = redis.pubsub(ignore_subscribe_messages=True)
    lines.subscribe("lines")

    def events() -> Iterator[str]:
        yield ": open\n\n"
        for line in lines.listen():
            yield f"data: {line['data'].decode()}\n\n"

    return Response(events(), content_type="text/event-stream")


@app.post("/say")
def say_one():
    say.delay().get(timeout=30)
    return jsonify(None)
