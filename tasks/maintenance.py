"""Upkeep: the sweeps of the leading beat, and pruning on a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.agents.messages import SweepRuns
from app.auth.messages import PruneSignIns
from app.channels import upkeep as channels_upkeep
from app.core.messaging import Message
from app.core.nodes import read_nodes
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.crons import service as crons_service
from app.crons.messages import FireCrons, PruneHistory
from app.files import service as files_service
from app.hooks import webhooks
from app.jobs import service as jobs_service
from app.jobs.messages import TakeTurn
from app.jobs.turns import Turns
from app.workers import service as workers_service
from config.settings import JobSettings
from tasks.base import task

log = structlog.get_logger(__name__)

STALE_AFTER_S: Final = 2.0
HOUR_S: Final = 3600.0
AGENT_SWEEP_BEATS: Final = 3
TYPING_S: Final = 4.0

Duties = list[tuple[float, Callable[[], None]]]


def duties(platform: Platform, put: Callable[[Message], None]) -> Duties:
    """Return what the leading beat does besides ticking: seconds between two times, and what.

    Args:
        platform: of the beat process.
        put: publishes a message soon and returns at once.
    """
    turns = Turns(platform.redis, per_app=platform.settings.jobs.turns_per_app)

    def jobs() -> None:
        sweep_jobs(platform, turns, put)

    def crons() -> None:
        sweep_crons(platform, put)

    def agents() -> None:
        put(SweepRuns())

    def channels() -> None:
        tend_channels(platform, put)

    def history() -> None:
        put(PruneHistory())
        put(PruneSignIns())

    return [
        (platform.settings.jobs.sweep_interval.total_seconds(), jobs),
        (1.0, crons),
        (HOUR_S, history),
        (AGENT_SWEEP_BEATS * platform.settings.agents.heartbeat.total_seconds(), agents),
        (TYPING_S, channels),
    ]


def sweep_jobs(platform: Platform, turns: Turns, put: Callable[[Message], None]) -> None:
    """Give a turn to every app with a visible job that no node looked at lately.

    This alone keeps jobs going after all of Redis was lost. Without a live node nothing is
    published, or messages would pile up.
    """
    if not _any_node(platform):
        return
    with platform.uow() as uow:
        lanes = jobs_service.visible_lanes(uow.session)
    unseen = turns.unseen(sorted(lanes))
    with platform.uow() as uow:
        wanted = [
            app_id
            for app_id in unseen
            if jobs_service.AGENT in lanes[app_id] or jobs_service.may_run(uow.session, app_id)
        ]
    for app_id in wanted:
        turns.renew(app_id)
        put(TakeTurn(app_id))


def _any_node(platform: Platform) -> bool:
    try:
        return bool(read_nodes(platform.redis))
    except (RedisError, OSError):
        return False


def tend_channels(platform: Platform, put: Callable[[Message], None]) -> None:
    """Have chats looked at that wait too long, and show where agents are at work."""
    if not _any_node(platform):
        return
    with platform.uow() as uow:
        for message in channels_upkeep.due(uow):
            put(message)


def sweep_crons(platform: Platform, put: Callable[[Message], None]) -> None:
    """Have ticks fired again that wait too long, e.g. because a message was lost."""
    with platform.uow() as uow:
        if crons_service.has_stale_due(uow.session, age_s=STALE_AFTER_S):
            put(FireCrons())


PRUNERS: tuple[Callable[[UnitOfWork, JobSettings], int], ...] = (
    jobs_service.prune,
    crons_service.prune,
    workers_service.prune,
    webhooks.prune,
    files_service.prune,
    channels_upkeep.prune,
)


@task(PruneHistory)
def prune(platform: Platform) -> None:
    """Delete what is older than the settings keep it, in small transactions."""
    for prune_some in PRUNERS:
        pruned = 1
        while pruned:
            with platform.uow() as uow:
                pruned = prune_some(uow, platform.settings.jobs)
