"""Statements sent straight to psycopg2: prepared, whole after errors, one connection at a time."""

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound, OperationalError

from app.core.ids import SYSTEM_USER_ID
from app.core.statements import INDEXES_ONLY, DirectSession, fetch, statement_of
from app.jobs.repository import QUEUE
from app.workers import callers

NAMED = "SELECT %(b)s::int - %(a)s::int, '100%%', %(b)s::int"
OFTEN = text("SELECT CAST(:b AS int) - CAST(:a AS int), '10%'").execution_options(
    trellis_often=True
)


@pytest.fixture
def engine(database_url):
    # One connection: whoever holds two at a time waits for ever.
    made = create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=1)
    yield made
    made.dispose()


@pytest.fixture
def session(engine):
    with DirectSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as made:
        yield made


def prepared(session):
    query = "SELECT statement FROM pg_prepared_statements ORDER BY prepare_time"
    return [row[0] for row in fetch(session, query, ())]


def test_what_comes_twice_is_prepared_once(session):
    for a in range(4):
        assert fetch(session, NAMED, {"a": a, "b": 9}, often=True).one() == (9 - a, "100%", 9)
        assert session.execute(OFTEN, {"a": a, "b": 9}).all() == [(9 - a, "10%")]
        assert fetch(session, "SELECT %s::text || '%%'", ("x",), often=True).scalar_one() == "x%"
        assert fetch(session, "SELECT 1", (), often=True).scalar_one() == 1
        assert fetch(session, NAMED, {"a": a, "b": 1}).one()[0] == 1 - a
    assert len(prepared(session)) == 4


def test_a_statement_that_failed_while_it_was_prepared_works_the_next_time(session):
    query = "SELECT 1 / %s::int"
    for divisor in (1, 0, 0, 1, 0, 1, 1):
        if divisor:
            assert fetch(session, query, (divisor,), often=True).scalar_one() == 1
        else:
            with pytest.raises(DBAPIError) as caught:
                fetch(session, query, (divisor,), often=True)
            assert caught.value.orig.pgcode == "22012"
    assert len(prepared(session)) <= 2


def test_statements_before_it_travel_in_the_same_transaction(session):
    found = fetch(session, "SHOW enable_seqscan", (), before=INDEXES_ONLY)
    assert found.scalar_one() == "off"
    assert fetch(session, "SHOW enable_seqscan", ()).scalar_one() == "on"


def test_each_statement_is_a_transaction_and_its_errors_are_sqlalchemys(session, engine):
    fetch(session, "CREATE TABLE t (id int PRIMARY KEY)", ())
    assert fetch(session, "INSERT INTO t VALUES (1), (2)", ()).rowcount == 2
    with pytest.raises(IntegrityError, match="t_pkey"):
        fetch(session, "INSERT INTO t VALUES (3), (1)", ())
    assert list(fetch(session, "SELECT id FROM t ORDER BY 1", ()).scalars()) == [1, 2]
    with pytest.raises(NoResultFound):
        fetch(session, "SELECT id FROM t WHERE id = 9", ()).one()
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 2
        connection.rollback()


def test_anything_but_text_is_done_as_ever(session):
    assert session.execute(select(func.abs(-3))).scalar_one() == 3
    assert session.scalars(select(func.abs(-4))).one() == 4


def test_a_lost_connection_is_told_and_replaced(session, database_url):
    assert fetch(session, "SELECT 1", ()).scalar_one() == 1
    other = create_engine(database_url)
    with other.connect() as knife:
        knife.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    other.dispose()
    with pytest.raises(OperationalError) as caught:
        fetch(session, "SELECT 1", ())
    assert caught.value.connection_invalidated
    assert fetch(session, "SELECT 2", ()).scalar_one() == 2


def test_a_database_that_is_not_there():
    nobody = create_engine("postgresql+psycopg2://x:y@127.0.0.1:1/z")
    with DirectSession(nobody) as session, pytest.raises(OperationalError):
        fetch(session, "SELECT 1", ())


def test_placeholders_become_numbers():
    assert statement_of("a = %s AND b = %s").numbered == "a = $1 AND b = $2"
    named = statement_of("a = %(y)s AND b = %(x)s AND c = %(y)s", ("x", "y"))
    assert named.numbered == "a = $2 AND b = $1 AND c = $2"
    assert named.places == "%(x)s, %(y)s"


def test_the_statements_of_the_hot_path_are_prepared(session):
    lane = {"app_id": "crm", "route": "worker"}
    for _ in range(3):
        QUEUE.claim(session, lane, quantity=1, vt_s=1)
        QUEUE.archive(session, [1])
        callers.look_up(session, "crm", [SYSTEM_USER_ID])
    kept = prepared(session)
    for what in ("SKIP LOCKED", "trellis.jobs_archive", "trellis.rbac_version"):
        assert sum(what in statement for statement in kept) == 1, what
