"""Triggers and row policies that every entity table carries."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2 import sql

from app.data import ddl
from app.data.contract import Entity
from app.data.live import Table


def guard_statements(app_id: str, entity: Entity, live: Table | None) -> Iterator[sql.Composable]:
    """Yield the statements that give a table the guards it does not have yet."""
    triggers = live.triggers if live else set()
    if ddl.TOUCH_TRIGGER not in triggers:
        yield ddl.touch_trigger(app_id, entity.name)
