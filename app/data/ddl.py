"""Statements that make and change tables, built from quoted parts only.

Source: REST contract part 20, sections 3.2 to 3.4 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg2 import sql

from app.core.db import SCHEMA
from app.data.contract import CORE_USERS, Check, Entity, Field, Index
from app.data.values import Kind, convert, input_text

DELETE_SQL = {"cascade": "CASCADE", "restrict": "RESTRICT", "set_null": "SET NULL"}
TOUCH_TRIGGER = "trellis_touch"


def table(app_id: str, entity: str) -> sql.Identifier:
    """Return the qualified name of an entity's table."""
    return sql.Identifier(app_id, entity)


def type_of(kind: Kind) -> sql.SQL:
    """Return a column type."""
    return sql.SQL(kind.value)


def literal(text: str, kind: Kind) -> sql.Composed:
    """Return a constant of a column type."""
    return sql.SQL("{}::{}").format(sql.Literal(text), type_of(kind))


def default(field: Field) -> sql.Composed | None:
    """Return the constant of a field's default, or None."""
    if field.default is None:
        return None
    type_name = "text" if field.type == "file" else field.type
    return literal(input_text(convert(type_name, field.kind, field.default)), field.kind)


def column(field: Field) -> sql.Composed:
    """Return a column definition."""
    parts = [sql.Identifier(field.name), type_of(field.kind)]
    if field.required:
        parts.append(sql.SQL("NOT NULL"))
    constant = default(field)
    if constant is not None:
        parts.append(sql.SQL("DEFAULT {}").format(constant))
    return sql.SQL(" ").join(parts)


def create_table(app_id: str, entity: Entity) -> sql.Composed:
    """Return CREATE TABLE with the system columns and every field."""
    key = (
        '"id" text PRIMARY KEY'
        if entity.text_key
        else '"id" uuid PRIMARY KEY DEFAULT gen_random_uuid()'
    )
    stamps = [
        sql.SQL("{} timestamptz NOT NULL DEFAULT now()").format(sql.Identifier(name))
        for name in ("created_at", "updated_at")
    ]
    columns = [sql.SQL(key), *(column(field) for field in entity.fields), *stamps]
    return sql.SQL("CREATE TABLE {} ({})").format(
        table(app_id, entity.name), sql.SQL(", ").join(columns)
    )


def alter(app_id: str, entity: str, action: sql.Composable) -> sql.Composed:
    """Return ALTER TABLE with one action."""
    return sql.SQL("ALTER TABLE {} {}").format(table(app_id, entity), action)


def alter_column(app_id: str, entity: str, name: str, action: sql.Composable) -> sql.Composed:
    """Return ALTER TABLE ... ALTER COLUMN with one action."""
    return alter(app_id, entity, sql.SQL("ALTER COLUMN {} {}").format(sql.Identifier(name), action))


def convert_type(app_id: str, entity: str, field: Field, live_type: str) -> sql.Composed:
    """Return ALTER TYPE with the contract's conversion (section 4.2)."""
    name = sql.Identifier(field.name)
    if (live_type, field.kind) == (Kind.TEXT.value, Kind.NUMBER):
        using = sql.SQL("NULLIF({}, '')::double precision").format(name)
    elif (live_type, field.kind) == (Kind.TEXT.value, Kind.BOOLEAN):
        using = sql.SQL(
            "CASE WHEN lower({0}) IN ('true', '1', 'yes', 't') THEN true"
            " WHEN lower({0}) IN ('false', '0', 'no', 'f') THEN false END"
        ).format(name)
    else:
        using = sql.SQL("{}::{}").format(name, type_of(field.kind))
    action = sql.SQL("TYPE {} USING {}").format(type_of(field.kind), using)
    return alter_column(app_id, entity, field.name, action)


def fill_nulls(app_id: str, entity: str, field: Field) -> sql.Composed:
    """Return the update that gives rows without a value the field's default."""
    return sql.SQL("UPDATE {} SET {} = {} WHERE {} IS NULL").format(
        table(app_id, entity),
        sql.Identifier(field.name),
        default(field) or sql.SQL("NULL"),
        sql.Identifier(field.name),
    )


def target_of(app_id: str, target: str) -> tuple[str, str]:
    """Return schema and table a link points to."""
    return (SCHEMA, "users") if target == CORE_USERS else (app_id, target)


def add_foreign_key(app_id: str, entity: str, name: str, field: Field) -> sql.Composed:
    """Return the statement that adds a link's constraint."""
    action = sql.SQL("ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {}").format(
        sql.Identifier(name),
        sql.Identifier(field.name),
        sql.Identifier(*target_of(app_id, field.target or "")),
        sql.Identifier("id"),
        sql.SQL(DELETE_SQL[field.on_delete]),
    )
    return alter(app_id, entity, action)


def drop_constraint(app_id: str, entity: str, name: str) -> sql.Composed:
    """Return the statement that drops a constraint."""
    return alter(app_id, entity, sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(name)))


def drop_index(app_id: str, name: str) -> sql.Composed:
    """Return the statement that drops an index."""
    return sql.SQL("DROP INDEX {}").format(sql.Identifier(app_id, name))


def plain_index(
    app_id: str, entity: str, name: str, columns: Iterable[sql.Composable]
) -> sql.Composed:
    """Return the statement that makes one of the automatic indexes unless it is there."""
    return sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
        sql.Identifier(name),
        table(app_id, entity),
        sql.SQL(", ").join(columns),
    )


def create_index(app_id: str, entity: str, index: Index) -> sql.Composed:
    """Return CREATE INDEX for a declared index."""
    statement = sql.SQL("CREATE {}INDEX {} ON {} USING {} ({})").format(
        sql.SQL("UNIQUE " if index.unique else ""),
        sql.Identifier(index.name),
        table(app_id, entity),
        sql.SQL(index.using),
        sql.SQL(", ").join(_element(dict(element)) for element in index.columns),
    )
    if index.parameters:
        settings = [
            sql.SQL("{} = {}").format(sql.SQL(name), sql.Literal(value))
            for name, value in index.parameters.items()
        ]
        statement += sql.SQL(" WITH ({})").format(sql.SQL(", ").join(settings))
    if index.where is not None:
        statement += sql.SQL(" WHERE ({})").format(sql.SQL(index.where))
    return statement


def _element(element: dict[str, str]) -> sql.Composable:
    if "column" in element:
        parts: list[sql.Composable] = [sql.Identifier(element["column"])]
    else:
        parts = [sql.SQL("({})").format(sql.SQL(element["expr"]))]
    if "ops" in element:
        parts.append(sql.SQL(element["ops"]))
    if "sort" in element:
        parts.append(sql.SQL(element["sort"].upper()))
    if "nulls" in element:
        parts.append(sql.SQL(f"NULLS {element['nulls'].upper()}"))
    return sql.SQL(" ").join(parts)


def comment_index(app_id: str, name: str, comment: str) -> sql.Composed:
    """Return the statement that marks an index as ours."""
    return sql.SQL("COMMENT ON INDEX {} IS {}").format(
        sql.Identifier(app_id, name), sql.Literal(comment)
    )


def enum_condition(field: Field) -> sql.Composed:
    """Return the condition that holds for a field's allowed values."""
    name = sql.Identifier(field.name)
    if field.kind.is_array:
        element = Kind.TEXT if field.kind is Kind.TEXTS else Kind.NUMBER
        return sql.SQL("{} <@ ARRAY[{}]").format(name, _constants(field, element))
    if field.kind is Kind.JSON:
        return sql.SQL("({} #>> '{{}}') IN ({})").format(name, _constants(field, Kind.TEXT))
    return sql.SQL("{} IN ({})").format(name, _constants(field, field.kind))


def _constants(field: Field, kind: Kind) -> sql.Composed:
    return sql.SQL(", ").join(literal(value, kind) for value in field.enum)


def add_check(app_id: str, entity: str, name: str, condition: sql.Composable) -> sql.Composed:
    """Return the statement that adds a check."""
    action = sql.SQL("ADD CONSTRAINT {} CHECK ({})").format(sql.Identifier(name), condition)
    return alter(app_id, entity, action)


def comment_constraint(app_id: str, entity: str, name: str, comment: str) -> sql.Composed:
    """Return the statement that marks a constraint as ours."""
    return sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
        sql.Identifier(name), table(app_id, entity), sql.Literal(comment)
    )


def probe_check(app_id: str, entity: str, check: Check) -> sql.Composed:
    """Return what fails unless a check is one boolean of immutable functions.

    A check runs with the platform's rights whenever a row is written, so it must not be able to
    read or change anything but its row. Postgres enforces just that for index predicates.
    """
    return sql.SQL(
        "CREATE TEMPORARY TABLE trellis_probe (LIKE {}) ON COMMIT DROP;"
        " CREATE INDEX ON pg_temp.trellis_probe ((1)) WHERE ({});"
        " DROP TABLE pg_temp.trellis_probe"
    ).format(table(app_id, entity), sql.SQL(check.expr))


def touch_trigger(app_id: str, entity: str) -> sql.Composed:
    """Return the statement that keeps ``updated_at`` current."""
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION {}()"
    ).format(
        sql.Identifier(TOUCH_TRIGGER),
        table(app_id, entity),
        sql.Identifier(SCHEMA, "touch_row_v1"),
    )
