"""Agent runs: the tasks, and what keeps the runs of this process alive."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import structlog
from celery import signals
from sqlalchemy.exc import SQLAlchemyError

from app.agents import llm, sweeper
from app.agents.control import Keeper
from app.agents.messages import ResumeRun, RunAgent, SweepRuns
from app.agents.providers.calling import load_library
from app.agents.runner import Runner
from app.core.platform import Platform
from tasks.base import platform_of, task
from tasks.node import current_node

log = structlog.get_logger(__name__)

_lock = threading.Lock()
_runner: Runner | None = None
_keeper: Keeper | None = None


@task(RunAgent)
def run(platform: Platform, run_id: str) -> None:
    """Work on a queued run; a duplicate message does nothing."""
    runner_of(platform).run(UUID(run_id))


@task(ResumeRun)
def resume(platform: Platform, run_id: str) -> None:
    """Go on with a run that waited or was handed on; a duplicate message does nothing."""
    runner_of(platform).run(UUID(run_id))


@task(SweepRuns)
def sweep(platform: Platform) -> None:
    """Expire approvals, take up lost runs, fail what cannot go on."""
    sweeper.sweep(platform)


def runner_of(platform: Platform) -> Runner:
    """Return this process's runner."""
    global _runner, _keeper  # noqa: PLW0603 - Celery gives its tasks no other way to the process
    with _lock:
        if _runner is None:
            node = current_node()
            _keeper = Keeper(platform, node.node)
            _runner = Runner(platform, node, _keeper)
        return _runner


@signals.worker_ready.connect
def _warm_up(sender: Any, **_kwargs: Any) -> None:  # Any: Celery's signal arguments
    """Load the libraries of registered providers before the first run waits for them."""
    platform = platform_of(sender.app)
    threading.Thread(target=warm_up, args=(platform,), name="warm-up", daemon=True).start()


def warm_up(platform: Platform) -> None:
    """Load the libraries that registered models need; a second or two each."""
    try:
        with platform.uow() as uow:
            providers = {model.provider.lower() for model in llm.list_models(uow.session)}
    except SQLAlchemyError as exc:
        log.info("agents_not_warmed_up", reason=type(exc).__name__)
        return
    for provider in providers:
        load_library(provider)


@signals.worker_shutting_down.connect
def _yield_runs(**_kwargs: Any) -> None:  # Any: Celery's signal arguments
    """Have every run of this process handed on after its current step."""
    if _keeper is not None:
        _keeper.stop()
