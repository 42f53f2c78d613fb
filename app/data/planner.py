"""Planning of schema sync for one app.

Source: REST contract part 20, sections 4.1 to 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2 import sql

from app.core.errors import Conflict
from app.data import ddl
from app.data.contract import STAMPS, Entity, Field
from app.data.guards import guard_statements
from app.data.live import Column, Schema, Table
from app.data.plan import Failure, Phase, Plan, WantedDefaults
from app.data.planner_constraints import ConstraintPlanner
from app.data.values import Kind

FAILED_CONVERSION = ("0A", "22", "23", "42")
MIGRATIONS_TABLE = "schema_migrations"


def plan(
    app_id: str, entities: Mapping[str, Entity], live: Schema, defaults: WantedDefaults
) -> Plan:
    """Return what it takes to bring live tables in step with a data contract.

    Args:
        app_id: the app, which is the schema.
        entities: the wanted tables.
        live: the tables as they are.
        defaults: text form of each wanted default by entity and field.

    Raises:
        Conflict: the type of a primary key would have to change.
    """
    result = Plan()
    for entity in entities.values():
        table = live.tables.get(entity.name)
        if table is None:
            _create(result, app_id, entity)
        else:
            _TablePlanner(result, app_id, entity, table, defaults).plan()
        for statement in guard_statements(app_id, entity, table):
            result.do(Phase.GUARD, statement)
    for orphan in live.tables.keys() - entities.keys() - {MIGRATIONS_TABLE}:
        result.report(orphan, "drop_table", "")
    return result


def _create(result: Plan, app_id: str, entity: Entity) -> None:
    result.report(entity.name, "create_table", "", f"{len(entity.fields)} fields")
    result.do(Phase.CREATE, ddl.create_table(app_id, entity))
    ConstraintPlanner(result, app_id, entity, Table(), reported=False).plan(set())


@dataclass(frozen=True, slots=True)
class _TablePlanner:
    """Plans the columns of one existing table, then its constraints."""

    result: Plan
    app_id: str
    entity: Entity
    table: Table
    defaults: WantedDefaults

    def plan(self) -> None:
        """Add the table's changes and steps to the plan."""
        name = self.entity.name
        key = self.table.columns.get("id")
        if key is not None and key.type != self.entity.id_kind.value:
            raise Conflict(
                f"entity '{name}': cannot convert field 'id' from {key.type}"
                f" to {self.entity.id_kind.value}"
            )
        wanted = {f.name: f for f in self.entity.fields}
        dropped = self.table.columns.keys() - wanted.keys() - {"id", *STAMPS}
        converted = {
            f.name
            for f in self.entity.fields
            if f.name in self.table.columns and self.table.columns[f.name].type != f.kind.value
        }
        for field in self.entity.fields:
            column = self.table.columns.get(field.name)
            if column is None:
                self._add(field)
            else:
                self._sync(field, column)
        for column_name in [c for c in self.table.columns if c in dropped]:
            self._drop(column_name)
        constraints = ConstraintPlanner(self.result, self.app_id, self.entity, self.table)
        constraints.plan(dropped | converted)

    def _alter(self, phase: Phase, field: str, action: str, failure: Failure | None = None) -> None:
        statement = ddl.alter_column(self.app_id, self.entity.name, field, sql.SQL(action))
        self.result.do(phase, statement, failure or Failure())

    def _add(self, field: Field) -> None:
        name = self.entity.name
        self.result.report(name, "add_column", field.name, field.kind.label)
        action = sql.SQL("ADD COLUMN {}").format(ddl.column(field))
        failure = Failure(
            f"entity '{name}': cannot add required field '{field.name}' without a default:"
            " table has rows",
            ("23502",),
        )
        self.result.do(Phase.ADD, ddl.alter(self.app_id, name, action), failure)

    def _drop(self, column: str) -> None:
        self.result.report(self.entity.name, "drop_column", column)
        action = sql.SQL("DROP COLUMN {} CASCADE").format(sql.Identifier(column))
        self.result.do(Phase.DROP_COLUMNS, ddl.alter(self.app_id, self.entity.name, action))

    def _sync(self, field: Field, column: Column) -> None:
        if column.type == field.kind.value:
            self._sync_null(field, column.not_null, reported=True)
            self._sync_default(field, column, kept=True)
            return
        self._convert(field, column)
        self._sync_null(field, live=False, reported=field.required != column.not_null)
        self._sync_default(field, column, kept=False)

    def _convert(self, field: Field, column: Column) -> None:
        name = self.entity.name
        before = _label(column.type)
        self.result.report(name, "alter_type", field.name, f"{before} → {field.kind.label}")
        if column.default is not None:
            self._alter(Phase.CONVERT, field.name, "DROP DEFAULT")
        if column.not_null:
            self._alter(Phase.CONVERT, field.name, "DROP NOT NULL")
            if not field.required:
                self.result.report(name, "drop_not_null", field.name)
        failure = Failure(
            f"entity '{name}': cannot convert field '{field.name}'"
            f" from {column.type} to {field.kind.value}",
            FAILED_CONVERSION,
        )
        statement = ddl.convert_type(self.app_id, name, field, column.type)
        self.result.do(Phase.CONVERT, statement, failure)

    def _sync_null(self, field: Field, live: bool, *, reported: bool) -> None:
        name = self.entity.name
        if field.required == live:
            return
        if not field.required:
            self.result.report(name, "drop_not_null", field.name)
            self._alter(Phase.NULLABILITY, field.name, "DROP NOT NULL")
            return
        if reported:
            self.result.report(name, "set_not_null", field.name)
        if field.default is not None:
            self._fill(field)
        failure = Failure(f"entity '{name}': field '{field.name}' has empty values", ("23502",))
        self._alter(Phase.NULLABILITY, field.name, "SET NOT NULL", failure)

    def _fill(self, field: Field) -> None:
        """Give rows without a value the default, unseen by audit and hooks."""
        for action, statement in (
            ("DISABLE TRIGGER USER", ddl.fill_nulls(self.app_id, self.entity.name, field)),
            ("ENABLE TRIGGER USER", None),
        ):
            switch = ddl.alter(self.app_id, self.entity.name, sql.SQL(action))
            self.result.do(Phase.NULLABILITY, switch)
            if statement is not None:
                self.result.do(Phase.NULLABILITY, statement)

    def _sync_default(self, field: Field, column: Column, *, kept: bool) -> None:
        name = self.entity.name
        wanted = self.defaults.get((name, field.name))
        constant = ddl.default(field)
        if constant is None:
            if column.default is not None:
                self.result.report(name, "drop_default", field.name)
                if kept:
                    self._alter(Phase.DEFAULTS, field.name, "DROP DEFAULT")
            return
        if column.default_text != wanted:
            self.result.report(name, "set_default", field.name, _shown(wanted or "", field.kind))
        if column.default_text != wanted or not kept:
            action = sql.SQL("SET DEFAULT {}").format(constant)
            statement = ddl.alter_column(self.app_id, name, field.name, action)
            self.result.do(Phase.DEFAULTS, statement)


def _label(live_type: str) -> str:
    try:
        return Kind(live_type).label
    except ValueError:
        return live_type.upper()


def _shown(text: str, kind: Kind) -> str:
    if kind in {Kind.NUMBER, Kind.BOOLEAN}:
        return text
    return "'" + text.replace("'", "''") + "'"


def wanted_defaults(
    entities: Mapping[str, Entity],
) -> dict[tuple[str, str], sql.Composable]:
    """Return the constant of each default, by entity and field."""
    return {
        (entity.name, field.name): constant
        for entity in entities.values()
        for field in entity.fields
        if (constant := ddl.default(field)) is not None
    }
