"""Planning of links, indexes and checks: what schema sync owns and what it leaves alone.

Source: REST contract part 20, sections 4.2 to 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from psycopg2 import sql

from app.data import ddl, names
from app.data.contract import Check, Entity, Field, Index
from app.data.live import Marked, Table
from app.data.plan import Failure, Phase, Plan

ACTIONS = {"cascade": "c", "restrict": "r", "set_null": "n"}
Thing = Literal["index", "check"]


@dataclass(frozen=True, slots=True)
class ConstraintPlanner:
    """Plans everything about one table that is not a column.

    Attributes:
        reported: False for a new table, whose one change is ``create_table``.
    """

    result: Plan
    app_id: str
    entity: Entity
    table: Table
    reported: bool = True

    def plan(self, touched: set[str]) -> None:
        """Add changes and steps.

        Args:
            touched: columns whose type changes or that go away; what depends on them is
                made anew.
        """
        self._links(touched)
        self._identity()
        self._order()
        self._indexes(touched)
        self._checks(touched)

    def _report(self, change_type: str, column: str, detail: str | None = None) -> None:
        if self.reported:
            self.result.report(self.entity.name, change_type, column, detail)

    # Links

    def _links(self, touched: set[str]) -> None:
        links = self.entity.links
        for name, field in links.items():
            self._link(name, field, touched)
        for name, live in self.table.foreign_keys.items():
            columns = sorted(live.columns)
            ours = len(columns) == 1 and name == names.foreign_key(self.entity.name, columns[0])
            if ours and name not in links:
                if columns[0] in self.entity.by_name:
                    self._report("drop_fk", columns[0])
                self._drop_constraint(name)

    def _link(self, name: str, field: Field, touched: set[str]) -> None:
        live = self.table.foreign_keys.get(name)
        target = ddl.target_of(self.app_id, field.target or "")
        if live is None:
            self._report("add_fk", field.name, field.target)
        elif live.target != target:
            self._report("alter_fk_target", field.name, field.target)
        elif live.on_delete != ACTIONS[field.on_delete]:
            rule = ddl.DELETE_SQL[field.on_delete]
            self._report("alter_fk_delete_rule", field.name, rule)
        elif field.name not in touched:
            return
        if live is not None:
            self._drop_constraint(name)
        failure = Failure(
            f"entity '{self.entity.name}': field '{field.name}' points to missing records",
            ("23503",),
        )
        statement = ddl.add_foreign_key(self.app_id, self.entity.name, name, field)
        self.result.do(Phase.LINK, statement, failure)
        index = names.link_index(self.app_id, self.entity.name, field.name)
        self._plain_index(index, sql.Identifier(field.name))

    def _drop_constraint(self, name: str) -> None:
        statement = ddl.drop_constraint(self.app_id, self.entity.name, name)
        self.result.do(Phase.DROP, statement)

    def _plain_index(self, name: str, *columns: sql.Composable) -> None:
        statement = ddl.plain_index(self.app_id, self.entity.name, name, columns)
        self.result.do(Phase.CONSTRAIN, statement)

    # Automatic indexes

    def _identity(self) -> None:
        key = self.entity.identity_key
        wanted = names.identity_index(self.entity.name, key) if key else None
        prefix = f"idx_identity_{self.entity.name}_"[:50]
        for name in self.table.indexes:
            if name.startswith(prefix) and name != wanted:
                self._report("drop_identity_index", name)
                self.result.do(Phase.DROP, ddl.drop_index(self.app_id, name))
        if wanted and key and wanted not in self.table.indexes:
            self._report("add_identity_index", key, self.entity.identity_kind)
            self._plain_index(wanted, sql.Identifier(key))

    def _order(self) -> None:
        name = names.order_index(self.entity.name)
        if name not in self.table.indexes:
            self._plain_index(name, sql.SQL('"created_at" DESC'), sql.SQL('"id"'))

    # Declared indexes

    def _indexes(self, touched: set[str]) -> None:
        wanted = {index.name: index for index in self.entity.indexes}
        marks = {name: index.mark for name, index in wanted.items()}
        for name in self._reconcile("index", marks, self.table.indexes, touched):
            self._create_index(wanted[name])

    def _create_index(self, index: Index) -> None:
        place = f"entity '{self.entity.name}': index '{index.name}'"
        failure = Failure(f"{place}: duplicate values present", ("23505",), place)
        statement = ddl.create_index(self.app_id, self.entity.name, index)
        self.result.do(Phase.CONSTRAIN, statement, failure, alone=True)
        comment = ddl.comment_index(self.app_id, index.name, index.mark)
        self.result.do(Phase.MARK, comment)

    # Checks

    def _checks(self, touched: set[str]) -> None:
        enums = self.entity.enums
        declared = {check.name: check for check in self.entity.checks}
        marks = {name: names.mark(f.kind.value, f.enum) for name, f in enums.items()}
        marks |= {name: check.mark for name, check in declared.items()}
        for name in self._reconcile("check", marks, self.table.checks, touched):
            if name in declared:
                self._probe(declared[name])
                condition: sql.Composable = sql.SQL(declared[name].expr)
            else:
                condition = ddl.enum_condition(enums[name])
            self._add_check(name, condition, marks[name], alone=name in declared)

    def _probe(self, check: Check) -> None:
        failure = Failure(fragment=f"entity '{self.entity.name}': check '{check.name}'")
        statement = ddl.probe_check(self.app_id, self.entity.name, check)
        self.result.do(Phase.CONSTRAIN, statement, failure, alone=True)

    def _add_check(self, name: str, condition: sql.Composable, mark: str, *, alone: bool) -> None:
        place = f"entity '{self.entity.name}': check '{name}'"
        failure = Failure(f"{place}: existing rows do not satisfy it", ("23514",), place)
        statement = ddl.add_check(self.app_id, self.entity.name, name, condition)
        self.result.do(Phase.CONSTRAIN, statement, failure, alone=alone)
        comment = ddl.comment_constraint(self.app_id, self.entity.name, name, mark)
        self.result.do(Phase.MARK, comment)

    # Ownership

    def _reconcile(
        self, thing: Thing, wanted: Mapping[str, str], live: Mapping[str, Marked], touched: set[str]
    ) -> list[str]:
        """Drop what is ours and not wanted as it is; return the names to make."""
        for name, found in live.items():
            if found.owned and name not in wanted:
                self._report(f"drop_{thing}", name)
                self._drop(thing, name)
        to_make = []
        for name, mark in wanted.items():
            found_live = live.get(name)
            if found_live is None:
                self._report(f"add_{thing}", name)
            elif found_live.comment != mark:
                self._report(f"replace_{thing}", name)
            elif not found_live.columns & touched:
                continue
            if found_live is not None:
                self._drop(thing, name)
            to_make.append(name)
        return to_make

    def _drop(self, thing: Thing, name: str) -> None:
        if thing == "check":
            self._drop_constraint(name)
            return
        failure = Failure(fragment=f"entity '{self.entity.name}': index '{name}'")
        self.result.do(Phase.DROP, ddl.drop_index(self.app_id, name), failure)
