"""The floor: Flask and Celery as everybody would wire them, with Celery's Redis result backend."""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask, jsonify, request

celery = Celery("plain", broker=os.environ["PLAIN_REDIS"], backend=os.environ["PLAIN_REDIS"])
celery.conf.update(result_expires=60, worker_prefetch_multiplier=1)
app = Flask(__name__)


@celery.task(name="echo")
def echo(value: object) -> object:
    return value


@app.post("/rpc")
def rpc():
    return jsonify(echo.delay(request.get_json()["params"]).get(timeout=30))
