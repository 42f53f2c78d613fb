"""Upkeep of accounts and sessions."""

from __future__ import annotations

from app.auth import service
from app.auth.messages import PruneSignIns
from app.core.platform import Platform
from tasks.base import task


@task(PruneSignIns)
def prune(platform: Platform) -> None:
    """Delete sessions, sign-ins under way and nonces that have run out."""
    with platform.uow() as uow:
        service.prune(uow)
