"""How a Celery app is put together: platform, tasks, steps."""

from __future__ import annotations

from celery import Celery

from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from config.settings import Settings
from tasks import base, jobs, registry
from tasks.node import NodeStep


def build(settings: Settings, *, process: str) -> Celery:
    """Return a Celery app with every task and its platform attached."""
    celery = make_celery(settings)
    celery.conf.worker_consumer = "tasks.consumer:Consumer"
    platform = bootstrap(settings, CeleryPublisher(celery), process=process)
    setattr(celery, base.PLATFORM, platform)
    registry.register_tasks(celery)
    if process == "worker":
        celery.steps["worker"].add(NodeStep)
        celery.steps["worker"].add(jobs.JobPumpStep)
    return celery
