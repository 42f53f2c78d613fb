"""The database browser: schemas and their tables.

Source: REST contract part 20, section 13.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.data.execution import query

SYSTEM: Final = {"trellis", "information_schema"}
MAY_QUERY: Final = "admin:db.query"
TABLES: Final = """
SELECT coalesce(json_agg(json_build_object('table_name', t.table_name, 'columns', t.columns)
                         ORDER BY t.table_name), '[]')::text
FROM (SELECT c.relname AS table_name, (
          SELECT coalesce(json_agg(json_build_object(
                     'column_name', i.column_name, 'data_type', i.data_type,
                     'is_nullable', i.is_nullable, 'column_default', i.column_default,
                     'ordinal_position', i.ordinal_position) ORDER BY i.ordinal_position), '[]')
          FROM information_schema.columns i
          WHERE i.table_schema = n.nspname AND i.table_name = c.relname) AS columns
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = %s AND c.relkind IN ('r', 'p')) t
"""
SCHEMAS: Final = """
SELECT coalesce(json_agg(json_build_object('schema_name', s.name, 'table_count', s.tables)
                         ORDER BY s.name <> 'trellis', s.name <> 'public', s.name), '[]')::text
FROM (SELECT n.nspname AS name, count(c.oid) AS tables
      FROM pg_namespace n
      LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
      WHERE n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
        AND (n.nspname <> 'trellis' OR %s)
      GROUP BY n.nspname) s
"""


def schemas(session: Session, actor: Actor) -> str:
    """Return the schemas an actor may see, as a JSON array."""
    return str(query(session, SCHEMAS, [actor.can(MAY_QUERY)]).scalar_one())


def tables(session: Session, actor: Actor, schema: str) -> str:
    """Return the tables of a schema with their columns, as a JSON array.

    Raises:
        Forbidden: it is one of the system's.
    """
    if schema in SYSTEM or schema.startswith("pg_"):
        actor.require(MAY_QUERY)
    return str(query(session, TABLES, [schema.replace("\0", "")]).scalar_one())
