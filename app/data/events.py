"""What happens to records; higher slices hear it in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.events import Event
from app.core.uow import UnitOfWork
from app.data.access import Target


@dataclass(frozen=True, slots=True)
class WatchedRecordsChanged(Event):
    """Records of an app that some hook watches were written; jobs may be waiting."""

    app_id: str


def announce(uow: UnitOfWork, target: Target) -> None:
    """Tell that records of an opened entity were written, if any hook watches the app."""
    if target.hooked:
        uow.emit(WatchedRecordsChanged(target.app_id))
