"""Errors of the data slice."""

from __future__ import annotations

from app.core.errors import NotFound, NotReady


class StaleContract(NotReady):
    """The tables changed between reading the data contract and using it; worth one retry."""

    def __init__(self) -> None:
        super().__init__("the data contract is being changed, try again")


def no_entity(app_id: str, entity: str) -> NotFound:
    """Return the error of an entity that is not in the app's current manifest."""
    return NotFound(f"no entity '{entity}' in app '{app_id}'")


def no_record(record_id: str) -> NotFound:
    """Return the error of an absent record."""
    return NotFound(f"no record '{record_id}'")
