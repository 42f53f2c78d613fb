"""SQL of app code: types, limits, row policies, and that it cannot get out of its login."""

import uuid
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from app.core.actor import Actor, Source
from app.core.errors import AppError
from app.core.permissions import Permissions
from app.data import app_sql
from app.data.app_sql import AppDatabase, Identity

CONTRACT = [
    {
        "entityName": "contacts",
        "fields": [
            {"name": "name", "type": "text"},
            {"name": "age", "type": "number"},
            {"name": "extra", "type": "json"},
        ],
    }
]
USER = uuid.UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")


@pytest.fixture
def database(admin, platform):
    for app_id in ("crm", "hr"):
        body = {"appId": app_id, "name": app_id, "dataContract": CONTRACT}
        assert admin.post("/apps", body).status_code == 200
    database = AppDatabase(platform.settings, platform.engine)
    yield database
    database.close()
    with platform.engine.begin() as owner:
        owner.execute(text(f'DROP ROLE IF EXISTS "{database._login.name}"'))


def actor(*keys):
    return Actor(user_id=USER, email="u@example.com", permissions=Permissions.of(keys))


@contextmanager
def session(database, who, app_id="crm"):
    connection = database.take()
    try:
        database.become(connection, Identity.of(app_id, who, Source.APP_SQL))
        yield connection
        connection.commit()
    finally:
        database.give_back(connection)


def run(database, statement, params=(), who=None, app_id="crm"):
    who = actor("*") if who is None else who
    with session(database, who, app_id) as connection:
        return app_sql.execute(connection, statement, list(params))


def failure(database, statement, params=(), who=None):
    with pytest.raises(AppError) as caught:
        run(database, statement, params, who)
    return caught.value.message


VALUES = [
    ("null", None),
    ("true", True),
    ("1::int2", 1),
    ("9223372036854775807", 9223372036854775807),
    ("1.5::float8", 1.5),
    ("'NaN'::float8", "nan"),
    ("1.50::numeric", "1.50"),
    ("'a'::text", "a"),
    ("'3fa85f64-5717-4562-b3fc-2c963f66afa6'::uuid", str(USER)),
    ("'2026-01-02'::date", "2026-01-02"),
    ("'2026-01-02 03:04:05.5+02'::timestamptz", "2026-01-02T01:04:05.5Z"),
    ("'infinity'::timestamptz", "infinity"),
    ("""'{"a": [1, null]}'::jsonb""", {"a": [1, None]}),
    ("array[1,null,3]", [1, None, 3]),
    ("array['a','b']", ["a", "b"]),
    (r"'\x00ff'::bytea", "AP8="),
    ("interval '1 day 02:00'", "1 day 02:00:00"),
    ("'10.0.0.1'::inet", "10.0.0.1"),
    ("int4range(1,5)", "[1,5)"),
]


def test_values_of_results(database):
    for expression, value in VALUES:
        answer = run(database, f"SELECT {expression} AS x")
        assert answer == {"columns": ["x"], "rows": [[value]], "row_count": 1}, expression


PARAMETERS = [
    ("int", 5, 5),
    ("int", "5", 5),
    ("text", 5, "5"),
    ("bool", True, True),
    ("numeric", 1.5, "1.5"),
    ("jsonb", {"a": "'"}, {"a": "'"}),
    ("jsonb", [1, "x"], [1, "x"]),
    ("jsonb", "text", "text"),
    ("text[]", ["a", 'b"c', None, "d\\e", "{x}"], ["a", 'b"c', None, "d\\e", "{x}"]),
    ("int[]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ("uuid", str(USER), str(USER)),
    ("text", None, None),
]


def test_parameters_take_the_type_postgres_infers(database):
    for kind, value, back in PARAMETERS:
        assert run(database, f"SELECT $1::{kind}", [value])["rows"] == [[back]], (kind, value)


def test_rows_affected(database):
    inserted = run(database, "INSERT INTO contacts (name) VALUES ($1), ($2)", ["a", "b"])
    assert inserted == {"columns": [], "rows": [], "row_count": 2}
    back = run(database, "UPDATE contacts SET age = $1 RETURNING name, age", [3])
    assert back == {"columns": ["name", "age"], "rows": [["a", 3], ["b", 3]], "row_count": 2}


def test_the_row_limit(database):
    assert run(database, "SELECT generate_series(1, 1000)")["row_count"] == 1000
    text_ = "query returned more than 1000 rows; add LIMIT"
    assert failure(database, "SELECT generate_series(1, 100000000)") == text_
    assert run(database, "SELECT 1")["rows"] == [[1]]


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("create table x (a int)", "CREATE"),
        ("  DROP TABLE contacts", "DROP"),
        ("set role postgres", "SET"),
        ("Do $$ begin end $$", "DO"),
        ("commit", "COMMIT"),
        (";copy contacts to stdout", "COPY"),
    ],
)
def test_words_refused_up_front(statement, word):
    with pytest.raises(AppError) as caught:
        app_sql.refuse(statement)
    assert caught.value.message == f"statement not allowed: {word}"


ATTACKS = [
    "SELECT 1; SELECT 2",
    "/**/ CREATE TABLE public.x (a int)",
    "/**/ CREATE TEMP TABLE x (a int)",
    "/**/ ALTER TABLE contacts DISABLE ROW LEVEL SECURITY",
    "/**/ DROP TABLE contacts",
    "/**/ TRUNCATE contacts",
    "SELECT * FROM trellis.users",
    "SELECT * FROM trellis.secrets",
    "SELECT * FROM trellis.sql_identities",
    "/**/ INSERT INTO trellis.sql_identities VALUES (1)",
    "/**/ SET ROLE trellis",
    "/**/ SET SESSION AUTHORIZATION trellis",
    "SELECT set_config('role', 'trellis', false)",
    "SELECT set_config('session_authorization', 'trellis', false)",
    "SELECT pg_read_file('/etc/passwd')",
    "/**/ COPY contacts TO PROGRAM 'id'",
    "SELECT lo_import('/etc/passwd')",
]


def test_the_login_itself_is_the_barrier(database):
    still = "SELECT current_user = session_user, count(*) FROM contacts"
    for statement in ATTACKS:
        assert failure(database, statement), statement
        assert run(database, still)["rows"] == [[True, 0]], statement


def test_a_hidden_commit_does_not_go_unnoticed(database):
    message = failure(database, "/**/ COMMIT")
    assert message == "statement not allowed: it ends the transaction"


def test_policies_follow_the_identity(database):
    run(database, "INSERT INTO contacts (name) VALUES ('a')")
    reader, nobody = actor("app:crm:contacts.read"), actor("app:hr:*")
    assert run(database, "SELECT name FROM contacts", who=reader)["rows"] == [["a"]]
    assert run(database, "SELECT name FROM contacts", who=nobody)["rows"] == []
    rejected = "write rejected by access policy"
    assert failure(database, "INSERT INTO contacts (name) VALUES ('b')", who=reader) == rejected
    assert failure(database, "UPDATE contacts SET name = 'b'", who=reader) == rejected
    assert failure(database, "DELETE FROM contacts", who=reader) == rejected
    writer = actor("app:crm:contacts.*", "app:crm:*")
    assert run(database, "DELETE FROM contacts", who=writer)["row_count"] == 1


def test_nobody_sees_nothing(database):
    run(database, "INSERT INTO contacts (name) VALUES ('a')")
    with session(database, None) as connection:
        assert app_sql.execute(connection, "SELECT * FROM contacts", [])["rows"] == []


def test_an_app_sees_no_other_app_even_for_an_administrator(database):
    run(database, "INSERT INTO contacts (name) VALUES ('secret')", app_id="hr")
    assert run(database, "SELECT * FROM hr.contacts")["rows"] == []
    rejected = "write rejected by access policy"
    assert failure(database, "INSERT INTO hr.contacts (name) VALUES ('x')") == rejected


def test_settings_are_readable_and_forging_them_changes_nothing(database, platform):
    reader = actor("app:crm:contacts.read")
    query = "SELECT current_setting('trellis.user_id'), current_setting('trellis.is_delegated'), current_setting('trellis.effective_perms')"
    assert run(database, query, who=reader)["rows"] == [[str(USER), "0", "app:crm:contacts.read"]]
    with session(database, reader) as connection:
        forge = "SELECT set_config('trellis.user_id', gen_random_uuid()::text, false), set_config('trellis.effective_perms', '*', false)"
        app_sql.execute(connection, forge, [])
        with pytest.raises(AppError, match="write rejected"):
            app_sql.execute(connection, "INSERT INTO contacts (name) VALUES ('b')", [])
        connection.rollback()


def test_the_audit_log_names_the_identity_not_the_setting(database, platform):
    with session(database, actor("*")) as connection:
        forge = "SELECT set_config('trellis.user_id', gen_random_uuid()::text, true)"
        app_sql.execute(connection, forge, [])
        app_sql.execute(connection, "INSERT INTO contacts (name) VALUES ('b')", [])
    with platform.uow() as uow:
        row = uow.session.execute(
            text("SELECT actor_uid, trigger_ref FROM trellis.audit_log ORDER BY id DESC LIMIT 1")
        ).one()
    assert (row.actor_uid, row.trigger_ref) == (USER, "app_sql")


def test_messages_of_the_database_reach_the_app(database):
    assert failure(database, "SELECT * FROM nothing") == 'relation "nothing" does not exist'
    assert failure(database, "SELECT $1::int", ["x"]).startswith("invalid input syntax")
    assert failure(database, "SELECT $1::int", []) == "the statement takes 1 parameters, not 0"


def test_a_long_statement_is_ended(database, monkeypatch):
    monkeypatch.setattr(app_sql, "STATEMENT_LIMIT", "300ms")
    assert failure(database, "SELECT pg_sleep(5)") == "statement timed out"


def test_a_changed_master_key_gets_a_new_password(database, platform):
    run(database, "SELECT 1")
    auth = platform.settings.auth
    other = type(auth)(
        **{name: getattr(auth, name) for name in auth.__slots__} | {"master_key": "ab" * 32}
    )
    settings = type(platform.settings)(
        **{name: getattr(platform.settings, name) for name in platform.settings.__slots__}
        | {"auth": other}
    )
    rotated = AppDatabase(settings, platform.engine)
    assert run(rotated, "SELECT 1")["rows"] == [[1]]
    rotated.close()
