"""Turns: the jobs task, and the pump of this node's jobs."""

from __future__ import annotations

from typing import Any, Final

from celery import bootsteps, signals

from app.agents import jobs as agent_jobs
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.jobs.delivery import Assignment
from app.jobs.messages import TakeTurn
from app.jobs.pump import JobPump
from app.jobs.turns import Turns
from tasks import base
from tasks.base import task
from tasks.node import NodeStep, current_node

FINISH_S: Final = 5.0

_pump: JobPump | None = None


def make_pump(platform: Platform) -> JobPump:
    """Return a pump that works on this process's node."""
    jobs = platform.settings.jobs
    return JobPump(
        uow=platform.uow,
        host=current_node,
        turns=Turns(platform.redis, per_app=jobs.turns_per_app),
        publisher=platform.publisher,
        jobs=jobs,
        start_agent_run=_start_agent_run,
    )


def _start_agent_run(uow: UnitOfWork, assignment: Assignment) -> None:
    body = assignment.delivery.body
    agent_jobs.start(
        uow,
        assignment.actor,
        app_id=body["app_id"],
        msg_id=assignment.delivery.msg_id,
        source=body["source"],
        cron_id=body["cron_id"],
        hook_id=body["hook_id"],
        payload=body["payload"],
    )


@task(TakeTurn, direct=True)
def turn(platform: Platform, app_id: str) -> None:
    """Wake the pump for an app; no thread is held while its jobs run."""
    if _pump is not None:
        _pump.turn(app_id)


class JobPumpStep(bootsteps.StartStopStep):
    """Runs the pump: started after the node, told to claim nothing more before it stops."""

    requires = (NodeStep,)

    def start(self, worker: Any) -> None:  # Any: Celery's WorkController
        """Start the pump."""
        global _pump  # noqa: PLW0603 - Celery gives its tasks no other way to the process
        _pump = make_pump(base.platform_of(worker.app))
        _pump.start()

    def stop(self, _worker: Any) -> None:  # Any: as above
        """Claim nothing more; the node's stop then ends what is in flight."""
        if _pump is not None:
            _pump.close()

    terminate = stop


@signals.worker_shutdown.connect
def _finish(**_kwargs: Any) -> None:  # Any: Celery's signal arguments
    """Write down how the jobs ended that the node's stop interrupted."""
    if _pump is not None:
        _pump.finish(FINISH_S)
