"""SQL of the record endpoints. Postgres builds the JSON; Python passes the bytes on.

Each entity's statements are rendered once per version of the data contract and process.

Source: REST contract part 20, sections 1.3 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from psycopg2 import sql
from sqlalchemy.orm import Session

from app.core.db import SCHEMA
from app.data.contract import Entity, Field
from app.data.execution import render
from app.data.requests import Listing
from app.data.values import Kind

ANY_PAGE = sql.SQL("LIMIT %s OFFSET %s")
Builder = Callable[[], sql.Composable]


class Statements:
    """Statements of one entity, rendered when first used."""

    def __init__(self, app_id: str, entity: Entity) -> None:
        self.table: sql.Composable = sql.Identifier(app_id, entity.name)
        self.columns: sql.Composable = sql.SQL(", ").join(map(_shown, entity.by_name.values()))
        self.entity = entity
        self._rendered: dict[tuple[str, ...], str] = {}
        self._quoted = False

    def quoted(self, session: Session) -> Statements:
        """Return itself with the parts that every statement shares quoted once and for all."""
        if not self._quoted:
            self.table = sql.SQL(render(session, self.table))
            self.columns = sql.SQL(render(session, self.columns))
            self._quoted = True
        return self

    def select_one(self, session: Session) -> str:
        """Return: JSON of the record with an id."""
        return self._render(
            session,
            ("one",),
            lambda: sql.SQL(
                "SELECT row_to_json(r)::text FROM (SELECT {} FROM {} t WHERE t.id = %s::{}) r"
            ).format(self.columns, self.table, self._id_type),
        )

    def insert(self, session: Session, names: Sequence[str]) -> str:
        """Return: insert the named columns, answer the record's JSON."""
        fields = [self.entity.writable[name] for name in names]
        return self._render(
            session,
            ("insert", *names),
            lambda: self._answering(
                sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
                    self.table,
                    sql.SQL(", ").join(sql.Identifier(f.name) for f in fields),
                    sql.SQL(", ").join(bound(f.kind) for f in fields),
                )
                if fields
                else sql.SQL("INSERT INTO {} DEFAULT VALUES RETURNING *").format(self.table)
            ),
        )

    def insert_many(self, names: Sequence[str], rows: Sequence[Collection[str]]) -> sql.Composed:
        """Return: insert rows, answer their JSON as an array in the same order.

        Args:
            names: columns that any row has.
            rows: the columns each row has; the others get their default.
        """
        kinds = [(name, bound(self.entity.writable[name].kind)) for name in names]
        default = sql.SQL("DEFAULT")
        values = [
            sql.SQL("({})").format(
                sql.SQL(", ").join(place if name in row else default for name, place in kinds)
            )
            for row in rows
        ]
        write = sql.SQL("INSERT INTO {} ({}) VALUES {} RETURNING *").format(
            self.table,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(values),
        )
        return sql.SQL("WITH t AS ({}) SELECT json_agg(r)::text FROM (SELECT {} FROM t) r").format(
            write, self.columns
        )

    def update(self, session: Session, names: Sequence[str]) -> str:
        """Return: set the named columns of the record with an id, answer its JSON."""
        fields = [self.entity.writable[name] for name in names]
        changes: list[sql.Composable] = [
            sql.SQL("{} = {}").format(sql.Identifier(f.name), bound(f.kind)) for f in fields
        ] or [sql.SQL("updated_at = now()")]
        return self._render(
            session,
            ("update", *names),
            lambda: self._answering(
                sql.SQL("UPDATE {} SET {} WHERE id = %s::{} RETURNING *").format(
                    self.table, sql.SQL(", ").join(changes), self._id_type
                )
            ),
        )

    def delete(self, session: Session) -> str:
        """Return: delete the record with an id."""
        return self._render(
            session,
            ("delete",),
            lambda: sql.SQL("DELETE FROM {} WHERE id = %s::{}").format(self.table, self._id_type),
        )

    def page(
        self, condition: sql.Composable, order: sql.Composable, paging: sql.SQL = ANY_PAGE
    ) -> sql.Composed:
        """Return: JSON array of one page; parameters end with those of the paging."""
        return sql.SQL("SELECT coalesce(json_agg(r), '[]')::text FROM ({} {}) r").format(
            self.rows(condition, order), paging
        )

    def list_page(
        self, session: Session, listing: Listing, condition: sql.Composable, limit: int
    ) -> str:
        """Return: as ``page``, for equality filters; parameters end with an offset that is not 0.

        The limit is part of the text, for Postgres plans a few rows in another way than many.
        """
        sort = sort_column(self.entity, listing.sort)
        direction = "desc" if listing.descending else "asc"
        offset = "%s" if listing.offset else "0"

        def build() -> sql.Composable:
            order = ordering(self.entity, sort, descending=listing.descending)
            return self.page(condition, order, sql.SQL(f"LIMIT {limit:d} OFFSET {offset}"))

        key = ("page", sort, direction, str(limit), offset, *listing.filters)
        return self._render(session, key, build)

    def counted(self, page: sql.Composable, condition: sql.Composable) -> sql.Composed:
        """Return: the text of a page and the number of rows without paging."""
        return sql.SQL("SELECT ({}), (SELECT count(*) FROM {} t WHERE {})").format(
            page, self.table, condition
        )

    def stream(self, condition: sql.Composable, order: sql.Composable) -> sql.Composed:
        """Return: one row of JSON text per record; parameters end with offset."""
        return sql.SQL("SELECT row_to_json(r)::text FROM ({} OFFSET %s) r").format(
            self.rows(condition, order)
        )

    def rows(self, condition: sql.Composable, order: sql.Composable) -> sql.Composed:
        """Return the SELECT of formatted columns."""
        return sql.SQL("SELECT {} FROM {} t WHERE {} ORDER BY {}").format(
            self.columns, self.table, condition, order
        )

    @property
    def _id_type(self) -> sql.SQL:
        return sql.SQL(self.entity.id_kind.value)

    def _answering(self, write: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "WITH t AS ({}) SELECT row_to_json(r)::text FROM (SELECT {} FROM t) r"
        ).format(write, self.columns)

    def _render(self, session: Session, key: tuple[str, ...], build: Builder) -> str:
        text = self._rendered.get(key)
        if text is None:
            text = render(session, build())
            if len(self._rendered) < 256:
                self._rendered[key] = text
        return text


def bound(kind: Kind) -> sql.SQL:
    """Return a parameter cast to a column kind."""
    return sql.SQL(f"%s::{kind.value}")


def sort_column(entity: Entity, sort: str) -> str:
    """Return the column that is sorted by: the wanted one if there is such a column."""
    return sort if sort in entity.by_name else "created_at"


def ordering(entity: Entity, sort: str, *, descending: bool) -> sql.Composed:
    """Return a total order: the named column, then ``id``."""
    name = sort_column(entity, sort)
    direction = sql.SQL("DESC" if descending else "ASC")
    if name == "id":
        return sql.SQL("t.id {}").format(direction)
    return sql.SQL("t.{} {}, t.id").format(sql.Identifier(name), direction)


def _shown(field: Field) -> sql.Composed:
    name = sql.Identifier(field.name)
    if field.kind is Kind.TIMESTAMP:
        return sql.SQL("{}(t.{}) AS {}").format(sql.Identifier(SCHEMA, "rfc3339_v1"), name, name)
    return sql.SQL("t.{}").format(name)
