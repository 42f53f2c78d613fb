"""Deployed code and its processes: wanted states, statuses, start and stop."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.workers import repository
from app.workers.host import CallOutcome, OutcomeKind, WorkerHost

__all__ = ["CallOutcome", "OutcomeKind", "WorkerHost", "runnable"]


def runnable(session: Session, app_id: str) -> bool:
    """Tell whether an app's calls may be handed to a node: code, wanted running, not cooling."""
    return repository.runnable(session, app_id)
