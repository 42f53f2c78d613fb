"""The floor of jobs: Flask inserts a row with psycopg and publishes a Celery task that does nothing."""

from __future__ import annotations

import os
import queue

import psycopg2
import psycopg2.extras
from celery import Celery
from flask import Flask, jsonify, request

celery = Celery("plain", broker=os.environ["PLAIN_REDIS"])
celery.conf.update(task_ignore_result=True, task_default_queue="plain")
app = Flask(__name__)
pool: queue.SimpleQueue[psycopg2.extensions.connection] = queue.SimpleQueue()


@celery.task(name="nothing")
def nothing(job_id: int | None = None) -> None:
    """Do nothing."""


@app.post("/jobs")
def jobs():
    try:
        connection = pool.get_nowait()
    except queue.Empty:
        connection = psycopg2.connect(os.environ["PLAIN_DATABASE"])
    with connection, connection.cursor() as cursor:
        payload = psycopg2.extras.Json(request.get_json()["payload"])
        cursor.execute("INSERT INTO plain_jobs (payload) VALUES (%s) RETURNING id", (payload,))
        (job_id,) = cursor.fetchone()
    pool.put(connection)
    nothing.delay(job_id)
    return jsonify(msg_id=job_id), 201
