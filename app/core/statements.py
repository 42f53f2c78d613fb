"""Statements as text, sent to psycopg2 without SQLAlchemy in between, prepared if they come often.

For statements that are a transaction by themselves, which is what every hot path consists of: there
SQLAlchemy's session, connection and result cost more than Postgres does.

Source: ADR 0014.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, TextClause
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.orm import Session

Values = Sequence[Any] | Mapping[str, Any]  # Any: values psycopg2 adapts
Row = tuple[Any, ...]  # Any: SQL values

OFTEN: Final = "trellis_often"
BY_INDEX: Final = "trellis_by_index"
KNOWN: Final = "trellis.prepared"
MOST_PREPARED: Final = 200
# A kept plan must be right for every size of its tables: this is how to get one that is.
INDEXES_ONLY: Final = (
    "SET LOCAL enable_seqscan = off;SET LOCAL enable_bitmapscan = off;SET LOCAL enable_sort = off;"
)
UNSURE, SEEN, TO_PREPARE = "?", "seen", "to prepare"
NAMES = count(1)


class Rows:
    """All rows of a statement, with those methods of SQLAlchemy's results that we use."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: Sequence[Row], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def all(self) -> Sequence[Row]:
        """Return every row."""
        return self._rows

    def one_or_none(self) -> Row | None:
        """Return the only row, None without one."""
        if len(self._rows) > 1:
            raise MultipleResultsFound("more than one row")
        return self._rows[0] if self._rows else None

    def one(self) -> Row:
        """Return the only row."""
        row = self.one_or_none()
        if row is None:
            raise NoResultFound("no row")
        return row

    def scalars(self) -> Rows:
        """Return the first column."""
        return Rows([row[0] for row in self._rows], self.rowcount)

    def first(self) -> Any:  # Any: SQL values
        """Return the first row or scalar, None without one."""
        return self._rows[0] if self._rows else None

    def scalar_one(self) -> Any:  # Any: an SQL value
        """Return the only value."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:  # Any: an SQL value
        """Return the only value, None without a row."""
        row = self.one_or_none()
        return None if row is None else row[0]


@dataclass(frozen=True, slots=True)
class Statement:
    """A text with psycopg2's placeholders, and what it takes to prepare it.

    Attributes:
        text: SQL.
        numbered: the same with ``$1`` for a placeholder, and so on.
        places: the placeholders as arguments of ``EXECUTE``.
    """

    text: str
    numbered: str
    places: str


@lru_cache(1024)
def statement_of(text: str, names: tuple[str, ...] | None = None) -> Statement:
    """Return a text whose placeholders are ``%s``, or ``%(name)s`` for each of the names."""
    if names is None:
        first, *others = text.split("%s")
        numbered = first + "".join(f"${place}{part}" for place, part in enumerate(others, 1))
        return Statement(text, numbered, ", ".join(["%s"] * len(others)))
    numbers = {name: f"${place}" for place, name in enumerate(names, 1)}
    # What is left of the percent signs is doubled again: values travel with this text, too.
    numbered = (text % numbers).replace("%", "%%")
    return Statement(text, numbered, ", ".join(f"%({name})s" for name in names))


_of_clause: WeakKeyDictionary[TextClause, Statement] = WeakKeyDictionary()


def fetch(
    session: Session, text: str, values: Values, *, before: str = "", often: bool = False
) -> Rows:
    """Run a text with psycopg2's placeholders where a session is, past SQLAlchemy's compiler.

    Args:
        session: whose connection to use.
        text: the statement.
        values: of its placeholders, and of those before it.
        before: statements that travel before it in the same message.
        often: see ``prepared``.

    Raises:
        DBAPIError: what psycopg2 raised, wrapped.
    """
    names = tuple(values) if isinstance(values, Mapping) else None
    if isinstance(session, DirectSession):
        if often:
            return session.send_often(statement_of(text, names), values, before)
        return session.send(before + text, values)
    connection = session.connection()

    def send(message: str) -> Rows:
        result = connection.exec_driver_sql(message, values)
        rows = [tuple(row) for row in result] if result.returns_rows else []
        return Rows(rows, result.rowcount)

    if often:
        return prepared(send, connection.info, statement_of(text, names), before)
    return send(before + text)


def prepared(
    run: Callable[[str], Rows],
    info: dict[str, Any],  # Any: SQLAlchemy's memory of a connection
    statement: Statement,
    before: str = "",
) -> Rows:
    """Run a statement that comes often: prepared when it comes for the second time.

    Postgres then parses it once per connection and may keep its plan. So it must not be one whose
    best plan changes while its tables grow, unless it is told to use indexes only.

    Args:
        run: executes a text with the statement's values.
        info: what is kept for a connection as long as it lives.
        statement: what to run.
        before: statements that travel before it in the same message.
    """
    known: dict[str, str] = info.setdefault(KNOWN, {})
    if UNSURE in known or len(known) >= MOST_PREPARED:
        before = "DEALLOCATE ALL;" + before
        known.clear()
    name = known.setdefault(statement.text, SEEN)
    if name is SEEN:
        known[statement.text] = TO_PREPARE
        return run(before + statement.text)
    if name is TO_PREPARE:
        name = f"trellis_{next(NAMES)}"
        before = f"PREPARE {name} AS {statement.numbered};{before}"
        # If the message fails, nobody knows whether the statement is prepared.
        known[UNSURE] = name
    arguments = f" ({statement.places})" if statement.places else ""
    found = run(f"{before}EXECUTE {name}{arguments}")
    known.pop(UNSURE, None)
    known[statement.text] = name
    return found


class DirectSession(Session):
    """A session in no transaction: each text is one, and goes straight to psycopg2.

    Each statement takes a connection of the pool and gives it back. Anything but text is done as
    SQLAlchemy does it; what that takes is made when it is first asked for.
    """

    def __init__(self, bind: Engine, **options: Any) -> None:  # Any: those of a session
        self._engine = bind
        self._options: dict[str, Any] | None = options  # Any: as above

    def __getattr__(self, name: str) -> Any:  # Any: attributes of a session
        """Become a whole session, of which this is an attribute."""
        options, self._options = self._options, None
        if options is None:
            raise AttributeError(name)
        super().__init__(self._engine, **options)
        return getattr(self, name)

    def close(self) -> None:
        """Close the session, if it became one."""
        if self._options is None:
            super().close()

    def execute(
        self, statement: Any, params: Any = None, **options: Any
    ) -> Any:  # Any: SQLAlchemy's overloads
        """Run a text directly, anything else as usual."""
        if not isinstance(statement, TextClause) or options:
            return super().execute(statement, params, **options)
        found = _compiled(statement, self._engine)
        wanted = statement.get_execution_options()
        if OFTEN in wanted:
            before = INDEXES_ONLY if BY_INDEX in wanted else ""
            return self.send_often(found, params or {}, before)
        return self.send(found.text, params or {})

    def send(self, text: str, values: Values) -> Rows:
        """Run a text with psycopg2's placeholders.

        Raises:
            DBAPIError: what psycopg2 raised, as SQLAlchemy would wrap it.
        """
        with Held(self._engine) as held:
            return held.run(text, values)

    def send_often(self, statement: Statement, values: Values, before: str = "") -> Rows:
        """Run a statement as ``prepared`` does. Raises as ``send``."""
        with Held(self._engine) as held:
            return prepared(lambda text: held.run(text, values), held.info, statement, before)

    def driver(self) -> Held:
        """Return a block's psycopg2 connection."""
        return Held(self._engine)


class Held:
    """A connection of the pool, in autocommit, for the length of a block."""

    connection: Any  # Any: psycopg2's connection

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Held:
        try:
            self._pooled = self._engine.raw_connection()
            self.connection = self._pooled.driver_connection
            self.connection.autocommit = True
        except self._engine.dialect.loaded_dbapi.Error as exc:
            raise self._wrapped(exc, "", (), lost=True) from exc
        self.info: dict[str, Any] = self._pooled.info  # Any: as kept
        return self

    def __exit__(self, *_: object) -> None:
        if self._pooled.is_valid:
            self.connection.autocommit = False
        self._pooled.close()

    def run(self, text: str, values: Values) -> Rows:
        """Execute a text and fetch what it returns."""
        cursor = self.connection.cursor()
        try:
            cursor.execute(text, values)
            rows = cursor.fetchall() if cursor.description else []
        except self._engine.dialect.loaded_dbapi.Error as exc:
            lost = self._engine.dialect.is_disconnect(exc, self.connection, cursor)
            if lost:
                # The others of the pool were most likely lost with it.
                self._pooled.invalidate(exc)
                self._engine.dispose()
            raise self._wrapped(exc, text, values, lost=lost) from exc
        except BaseException:
            # Left in the middle, by a signal or a killed greenlet.
            self._pooled.invalidate()
            raise
        return Rows(rows, cursor.rowcount)

    def _wrapped(self, exc: Exception, text: str, values: Values, *, lost: bool) -> BaseException:
        return DBAPIError.instance(
            text,
            values,
            exc,
            self._engine.dialect.loaded_dbapi.Error,
            connection_invalidated=lost,
            dialect=self._engine.dialect,
        )


def _compiled(statement: TextClause, engine: Engine) -> Statement:
    found = _of_clause.get(statement)
    if found is None:
        compiled = statement.compile(dialect=engine.dialect)
        found = statement_of(str(compiled), tuple(compiled.params))
        _of_clause[statement] = found
    return found
