"""Delivery through Celery: pytest-celery's setup over our own broker and worker processes."""

from __future__ import annotations

from uuid import uuid4

import psycopg2
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from pytest_celery import CeleryBackendCluster, CeleryBrokerCluster, CeleryWorkerCluster
from sqlalchemy import text

from app.auth.messages import PruneSignIns
from app.core.messaging import CeleryPublisher, Queue
from tasks import base
from tests.support.celery_nodes import (
    BackendNode,
    BrokerNode,
    RedisServer,
    WorkerNode,
    WorkerProcess,
)
from tests.support.stack import wait_until

WORKER = """
from trellis_worker import serve
serve(on_job=lambda payload: None)
"""


@pytest.fixture
def running(start_platform):
    platform = start_platform("web", "worker")
    platform.install("shop", WORKER)
    return platform


@pytest.fixture
def celery_broker_cluster(running):
    return CeleryBrokerCluster(BrokerNode(RedisServer(running.redis)))


@pytest.fixture
def celery_backend_cluster(running):
    return CeleryBackendCluster(BackendNode(RedisServer(running.redis)))


@pytest.fixture
def celery_worker_cluster(running):
    return CeleryWorkerCluster(WorkerNode(WorkerProcess(running.stack, "worker"), Celery()))


@pytest.fixture
def celery_worker_cluster_config(running):
    urls = {"urls": [running.redis.url], "host_urls": [running.redis.url]}
    return {"celery_broker_cluster_config": urls, "celery_backend_cluster_config": urls}


@pytest.fixture
def forgotten_job(running):
    """Put a job into the queue behind the platform's back, so that nothing was published."""
    with (
        psycopg2.connect(running.database_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO trellis.jobs_queue (app_id, source, payload, user_id)"
            " SELECT 'shop', 'api', '{}', id FROM trellis.users WHERE kind = 'human' RETURNING msg_id"
        )
        return cursor.fetchone()[0]


def take_turn(setup):
    setup.app.send_task("jobs.turn", kwargs={"app_id": "shop"}, queue="jobs", ignore_result=True)


def test_a_message_makes_the_worker_look_at_the_queue(celery_setup, running, forgotten_job):
    assert celery_setup.ready(control=True, docker=True)
    assert forgotten_job not in running.archived("shop")
    take_turn(celery_setup)
    running.wait_archived("shop", {forgotten_job})


def test_duplicate_messages_do_no_harm(celery_setup, running, forgotten_job):
    assert celery_setup.ready(docker=True)
    for _ in range(20):
        take_turn(celery_setup)
    running.wait_archived("shop", {forgotten_job})
    archived = running.admin.get("/apps/shop/jobs", params={"archived": "true"}).json()
    assert [job["read_ct"] for job in archived] == [1]


def test_delivery_goes_on_after_a_restart_of_the_broker(celery_setup, running, forgotten_job):
    assert celery_setup.ready(docker=True)
    celery_setup.broker.restart(force=True)
    wait_until(
        lambda: take_turn(celery_setup) or forgotten_job in running.archived("shop"),
        timeout=30,
        what="the worker to consume again",
    )


def test_a_message_waits_for_a_worker(celery_setup, running, forgotten_job):
    assert celery_setup.ready(docker=True)
    celery_setup.worker.kill("SIGTERM")
    take_turn(celery_setup)
    celery_setup.worker.restart()
    running.wait_archived("shop", {forgotten_job})


# --- celery.contrib.testing: a worker in a thread of this process ------------


@pytest.fixture
def celery_app(platform, settings):
    from app.core.messaging import make_celery
    from tasks.registry import register_tasks

    celery = make_celery(settings)
    setattr(celery, base.PLATFORM, platform)
    register_tasks(celery)
    yield celery
    celery.close()


@pytest.fixture
def thread_worker(celery_app):
    with start_worker(celery_app, perform_ping_check=False, queues=[Queue.MAINTENANCE.value]):
        yield


def test_a_published_message_runs_its_task_with_the_platform(celery_app, thread_worker, platform):
    with platform.uow() as uow:
        user = uuid4()
        uow.session.execute(
            text("INSERT INTO trellis.users (id, email) VALUES (:id, 'gone@example.com')"),
            {"id": user},
        )
        uow.session.execute(
            text(
                "INSERT INTO trellis.sessions (id, user_id, expires_at)"
                " VALUES (gen_random_uuid(), :id, now() - interval '1 second')"
            ),
            {"id": user},
        )

    def sessions():
        with platform.engine.connect() as connection:
            return connection.scalar(text("SELECT count(*) FROM trellis.sessions"))

    assert sessions() == 1
    CeleryPublisher(celery_app).publish([PruneSignIns()])
    wait_until(lambda: sessions() == 0, what="the task")
