"""Tasks of the crons slice."""

from __future__ import annotations

from app.core.platform import Platform
from app.crons import firing
from app.crons.messages import FireCrons
from tasks.base import task


@task(FireCrons)
def fire(platform: Platform, shard: int = 0) -> None:
    """Turn due ticks into jobs, batch by batch, until none is left."""
    with platform.uow() as uow:
        shards = firing.due_shards(uow.session, first=shard)
    for due in shards:
        fired = firing.BATCH
        while fired == firing.BATCH:
            with platform.uow() as uow:
                fired = firing.fire(uow, due)
