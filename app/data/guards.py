"""Triggers and row policies that every entity table carries.

Source: REST contract part 20, sections 9 and 12.1; part 30, section 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2 import sql

from app.core.db import SCHEMA
from app.data import ddl
from app.data.contract import Entity
from app.data.live import Table

APP_ROLE = "trellis_app"
# Triggers of one kind fire by name: the audit entry of a change is older than its jobs.
ROW_TRIGGERS = {"trellis_audit": "audit_row_v1", "trellis_hooks": "fire_hooks_v1"}
POLICIES = {
    "trellis_read": ("SELECT", "USING", "may_v1", "read"),
    "trellis_create": ("INSERT", "WITH CHECK", "must_v1", "create"),
    "trellis_update": ("UPDATE", "USING", "must_v1", "update"),
    "trellis_delete": ("DELETE", "USING", "must_v1", "delete"),
}


def guard_statements(app_id: str, entity: Entity, live: Table | None) -> Iterator[sql.Composable]:
    """Yield the statements that give a table the guards it does not have yet.

    The platform's own role owns the tables, so its statements pass the policies; the role of
    app code does not.
    """
    triggers = live.triggers if live else set()
    if ddl.TOUCH_TRIGGER not in triggers:
        yield ddl.touch_trigger(app_id, entity.name)
    table = ddl.table(app_id, entity.name)
    for name, function in ROW_TRIGGERS.items():
        if name not in triggers:
            yield _row_trigger(name, function, table)
    missing = POLICIES.keys() - (live.policies if live else set())
    if missing:
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table)
    for name in sorted(missing):
        yield _policy(name, app_id, entity.name)


def grant_statements(app_id: str, tables: list[str]) -> Iterator[sql.Composable]:
    """Yield the grants that let app code reach its own tables, within the row policies."""
    role = sql.Identifier(APP_ROLE)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(app_id), role)
    if tables:
        names = sql.SQL(", ").join(sql.Identifier(app_id, name) for name in tables)
        yield sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}").format(names, role)


def _row_trigger(name: str, function: str, table: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {}"
        " FOR EACH ROW EXECUTE FUNCTION {}()"
    ).format(sql.Identifier(name), table, sql.Identifier(SCHEMA, function))


def _policy(name: str, app_id: str, entity: str) -> sql.Composed:
    command, clause, function, action = POLICIES[name]
    # In a sub-select the function runs once per statement instead of once per row.
    return sql.SQL("CREATE POLICY {} ON {} FOR {} {} ((SELECT {}({})))").format(
        sql.Identifier(name),
        sql.Identifier(app_id, entity),
        sql.SQL(command),
        sql.SQL(clause),
        sql.Identifier(SCHEMA, function),
        sql.Literal(f"app:{app_id}:{entity}.{action}"),
    )
