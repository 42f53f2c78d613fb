"""The Celery app of workers and beat: settings, platform, tasks."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from celery import Celery, signals

from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from config.logging import configure_logging
from config.settings import AppEnv, Settings, load_settings
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


def _process() -> str:
    return "beat" if "beat" in sys.argv else "worker"


@signals.setup_logging.connect
def _configure_logging(**_kwargs: Any) -> None:  # Any: Celery's signal arguments
    configure_logging(
        _process(), json=_settings.env is AppEnv.PRODUCTION, level=_settings.logging.level
    )
    # Two lines per task, which is two lines per RPC; failures are logged above this level.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


_settings = load_settings(os.environ)  # noqa: TID251 - this is the composition root
celery = build(_settings, process=_process())
