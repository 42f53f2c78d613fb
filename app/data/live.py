"""What the tables of an app look like right now, read from Postgres' catalog."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import sql
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.data.execution import run
from app.data.names import MARK

CONSTANT = re.compile(r"(E?'([^']|'')*'(::[a-z ]+(\[\])?)?|-?[0-9.]+|true|false)")

COLUMNS = text("""
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid) AS default_expr
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')
ORDER BY c.relname, a.attnum
""")
CONSTRAINTS = text("""
SELECT c.relname, k.conname, k.contype, fn.nspname AS target_schema, f.relname AS target_table,
       k.confdeltype AS delete_action, obj_description(k.oid, 'pg_constraint') AS comment,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)) AS columns
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class f ON f.oid = k.confrelid
LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE n.nspname = :schema AND k.contype IN ('f', 'c')
""")
INDEXES = text("""
SELECT c.relname, i.relname AS name, obj_description(i.oid, 'pg_class') AS comment,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_class'::regclass AND d.objid = i.oid
               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid) AS columns
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_class c ON c.oid = x.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema
""")
TRIGGERS = text("""
SELECT c.relname, t.tgname
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND NOT t.tgisinternal
""")
POLICIES = text("SELECT tablename, policyname FROM pg_policies WHERE schemaname = :schema")
SCHEMA = text(
    "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :schema"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        type: as ``format_type`` writes it.
        default: default expression, or None.
        default_text: text form of a constant default; None if there is none or it is computed.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    default_text: str | None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key: where it points and what a delete does (``a r c n d``)."""

    name: str
    columns: frozenset[str]
    target: tuple[str, str]
    on_delete: str


@dataclass(frozen=True, slots=True)
class Marked:
    """An index or a check: what it depends on and its comment."""

    name: str
    columns: frozenset[str]
    comment: str

    @property
    def owned(self) -> bool:
        """Whether it was made from a manifest."""
        return self.comment.startswith(MARK)


@dataclass(slots=True)
class Table:
    """A table with all that schema sync looks at, by name."""

    columns: dict[str, Column] = field(default_factory=dict)
    foreign_keys: dict[str, ForeignKey] = field(default_factory=dict)
    checks: dict[str, Marked] = field(default_factory=dict)
    indexes: dict[str, Marked] = field(default_factory=dict)
    triggers: set[str] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of an app.

    Attributes:
        comment: the schema's comment; None = there is no such schema.
    """

    comment: str | None
    tables: dict[str, Table]


def read(session: Session, app_id: str) -> Schema:
    """Return the live tables of an app."""
    names = {"schema": app_id}
    rows = session.execute(SCHEMA, names).all()
    if not rows:
        return Schema(None, {})
    tables: dict[str, Table] = defaultdict(Table)
    columns = session.execute(COLUMNS, names).all()
    texts = _default_texts(session, columns)
    for row in columns:
        table = tables[row.relname]
        if row.attname is not None:
            default_text = texts.get((row.relname, row.attname))
            table.columns[row.attname] = Column(
                row.attname, row.type, row.attnotnull, row.default_expr, default_text
            )
    for row in session.execute(CONSTRAINTS, names):
        _add_constraint(tables[row.relname], row)
    for row in session.execute(INDEXES, names):
        comment = row.comment or ""
        tables[row.relname].indexes[row.name] = Marked(row.name, frozenset(row.columns), comment)
    for relation, name in session.execute(TRIGGERS, names):
        tables[relation].triggers.add(name)
    for relation, name in session.execute(POLICIES, names):
        tables[relation].policies.add(name)
    return Schema(rows[0][0] or "", dict(tables))


def _add_constraint(table: Table, row: Row[Any]) -> None:  # Any: a catalog row
    columns = frozenset(row.columns)
    if row.contype == "c":
        table.checks[row.conname] = Marked(row.conname, columns, row.comment or "")
        return
    target = (row.target_schema, row.target_table)
    table.foreign_keys[row.conname] = ForeignKey(row.conname, columns, target, row.delete_action)


def _default_texts(
    session: Session,
    columns: Sequence[Row[Any]],  # Any: catalog rows
) -> dict[tuple[str, str], str]:
    constant = [r for r in columns if r.default_expr and CONSTANT.fullmatch(r.default_expr)]
    texts = evaluate(session, [sql.SQL(r.default_expr) for r in constant])
    return {(r.relname, r.attname): t for r, t in zip(constant, texts, strict=True)}


def evaluate(session: Session, expressions: Sequence[sql.Composable]) -> list[str]:
    """Return the text forms of constant expressions, in one statement."""
    found: list[str] = []
    for start in range(0, len(expressions), 500):
        part = [sql.SQL("({})::text").format(e) for e in expressions[start : start + 500]]
        found += run(
            session, sql.SQL("SELECT ARRAY[{}]").format(sql.SQL(", ").join(part))
        ).scalar_one()
    return found
