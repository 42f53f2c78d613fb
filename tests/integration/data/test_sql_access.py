"""What the SQL of app code can and cannot do: the login, the row policies, the audit trigger."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from psycopg import Error
from sqlalchemy import text

from app.core.actor import Actor, Source
from app.core.permissions import Permissions
from app.data import contract, sync
from app.data.app_sql import AppDatabase, Identity
from app.data.contract_rules import normalise
from app.data.shape import Node

ENTITIES = [
    {"entityName": "trips", "fields": [{"name": "km", "type": "number"}]},
    {"entityName": "stops", "fields": [{"name": "name", "type": "text"}]},
]
USER = "3c1f0000-0000-0000-0000-000000000001"


@pytest.fixture
def database(platform, settings):
    """Connections of app code on a database with one app; the login is dropped at the end."""
    with platform.uow() as uow:
        sync.apply(uow.session, "fleet", contract.load(normalise(Node({"dataContract": ENTITIES}))))
        uow.session.execute(text("INSERT INTO fleet.trips (km) VALUES (1), (2)"))
    database = AppDatabase(settings, platform.engine)
    yield database
    database.close()
    with platform.engine.begin() as connection:
        logins = "SELECT rolname FROM pg_roles WHERE rolname = :login"
        for login in connection.scalars(text(logins), {"login": database._login.name}).all():
            connection.execute(text(f'DROP ROLE "{login}"'))


@pytest.fixture
def call(database):
    """Run one statement of app code in the name of somebody with these permissions."""

    def run(statement, *keys):
        actor = Actor(user_id=USER, permissions=Permissions.of(keys))
        connection = database.take()
        try:
            identity = replace(Identity.of("fleet", actor, Source.APP_SQL), permissions=keys)
            database.become(connection, identity)
            cursor = connection.execute(statement)
            result = cursor.fetchall() if cursor.description else cursor.rowcount
            connection.commit()
            return result
        finally:
            connection.rollback()
            database.give_back(connection)

    return run


def refused(call, statement, *keys):
    with pytest.raises(Error) as caught:
        call(statement, *keys)
    return str(caught.value).splitlines()[0]


def test_without_read_no_row_is_visible(call):
    assert call("SELECT count(*) FROM fleet.trips") == [(0,)]
    assert call("SELECT count(*) FROM fleet.trips", "app:fleet:stops.read") == [(0,)]
    for key in ("app:fleet:trips.read", "app:fleet:*", "app:*", "*"):
        assert call("SELECT count(*) FROM fleet.trips", key) == [(2,)]
    assert call("SELECT count(*) FROM fleet.trips", "app:fleet:trips.*") == [(0,)]


@pytest.mark.parametrize(
    ("statement", "key"),
    [
        ("INSERT INTO fleet.trips (km) VALUES (3)", "create"),
        ("UPDATE fleet.trips SET km = 5", "update"),
        ("DELETE FROM fleet.trips", "delete"),
    ],
)
def test_without_the_write_key_a_statement_fails(call, platform, statement, key):
    words = refused(call, statement, "app:fleet:trips.read")
    assert words == "write rejected by access policy"
    assert call(statement, "app:fleet:trips.read", f"app:fleet:trips.{key}") >= 1
    last = "SELECT actor_uid, trigger_ref FROM trellis.audit_log ORDER BY id DESC LIMIT 1"
    with platform.engine.connect() as connection:
        entry = connection.execute(text(last)).one()
    assert (str(entry.actor_uid), entry.trigger_ref) == (USER, "app_sql")


def test_app_code_cannot_choose_its_identity(call, platform):
    forged = "SELECT set_config('trellis.user_id', %s, false), set_config('trellis.source', 'api', false)"
    call(forged.replace("%s", f"'{USER[:-1]}2'"), "app:fleet:*")
    call("INSERT INTO fleet.trips (km) VALUES (3)", "app:fleet:*")
    with platform.engine.connect() as connection:
        entry = connection.execute(
            text("SELECT * FROM trellis.audit_log ORDER BY id DESC LIMIT 1")
        ).one()
    assert (str(entry.actor_uid), entry.trigger_ref) == (USER, "app_sql")
    for statement in (
        "UPDATE trellis.sql_identities SET permissions = '{*}'",
        "INSERT INTO trellis.sql_identities (pid, app_id, permissions) VALUES (1, 'x', '{*}')",
        "SET SESSION AUTHORIZATION postgres",
        "SELECT set_config('role', 'pg_read_all_data', false)",
    ):
        assert refused(call, statement, "app:fleet:*")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM trellis.users",
        "SELECT trellis.may_v1('x')",
        "CREATE TABLE fleet.x (id int)",
        "CREATE TEMP TABLE x (id int)",
        "SELECT 1 AS id INTO TEMP trips",
        "CREATE TABLE public.x (id int)",
        "CREATE FUNCTION fleet.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE fleet.trips DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE fleet.trips DISABLE TRIGGER ALL",
        "DROP TABLE fleet.trips",
        "TRUNCATE fleet.trips",
        "COPY fleet.trips TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "SET session_replication_role = replica",
        "DELETE FROM trellis.audit_log",
    ],
)
def test_the_login_owns_nothing(call, statement):
    words = refused(call, statement, "*")
    assert "permission denied" in words or "must be owner" in words or "must be superuser" in words


def test_nodes_and_threads_that_start_at_once_share_one_login(settings, platform, database):
    def first(database):
        connection = database.take()
        try:
            return connection.execute("SELECT current_user").fetchone()[0]
        finally:
            database.give_back(connection)

    nodes = [database, *(AppDatabase(settings, platform.engine) for _ in range(3))]
    try:
        with ThreadPoolExecutor(16) as pool:
            users = set(pool.map(first, nodes * 4))
    finally:
        for node in nodes[1:]:
            node.close()
    assert len(users) == 1
