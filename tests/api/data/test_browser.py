"""The database browser.

Source: REST contract part 20, section 13.
"""

import pytest

from app.data import selects
from tests.support.api import error

QUERY = "/db/query"
MANIFEST = {
    "appId": "probe",
    "name": "P",
    "dataContract": [
        {"entityName": "trips", "fields": [{"name": "km", "type": "number", "required": True}]},
        {"entityName": "cars", "fields": []},
    ],
}


@pytest.fixture(scope="module")
def probe(shared_admin):
    assert shared_admin.post("/apps", MANIFEST).status_code == 200
    rows = [{"km": n} for n in range(600)]
    shared_admin.post("/apps/probe/collections/trips/bulk", rows)
    return shared_admin


@pytest.fixture(scope="module")
def ben(probe):
    return probe.sign_up("ben@example.com")


def select(client, sql, **more):
    answer = client.post(QUERY, {"sql": sql, **more})
    assert answer.status_code == 200, answer.json
    return answer.json


def test_schemas(probe, ben):
    names = [row["schema_name"] for row in probe.get("/db/schemas").json]
    assert names[:2] == ["trellis", "public"]
    assert "probe" in names
    assert names[2:] == sorted(names[2:])
    assert not [name for name in names if name.startswith("pg_") or name == "information_schema"]
    assert [row["schema_name"] for row in ben.get("/db/schemas").json] == names[1:]
    counts = {row["schema_name"]: row["table_count"] for row in ben.get("/db/schemas").json}
    assert counts["probe"] == 2


def test_tables(probe, ben):
    cars, trips = ben.get("/db/schemas/probe/tables").json
    assert (cars["table_name"], trips["table_name"]) == ("cars", "trips")
    km = next(column for column in trips["columns"] if column["column_name"] == "km")
    assert km == {
        "column_name": "km",
        "data_type": "double precision",
        "is_nullable": "NO",
        "column_default": None,
        "ordinal_position": km["ordinal_position"],
    }
    assert ben.get("/db/schemas/nope/tables").json == []
    for schema in ("trellis", "pg_catalog", "information_schema"):
        path = f"/db/schemas/{schema}/tables"
        assert error(ben.get(path)) == (403, "missing permission: admin:db.query")
        assert probe.get(path).status_code == 200
    names = [table["table_name"] for table in probe.get("/db/schemas/trellis/tables").json]
    assert "users" in names


def test_a_select_reads_every_row_of_every_schema(probe, ben):
    assert error(ben.post(QUERY, {"sql": "SELECT 1"})) == (
        403,
        "missing permission: admin:db.query",
    )
    found = select(probe, "SELECT count(*) AS n, sum(km) FROM trips", schema="probe")
    assert found == {"columns": ["n", "sum"], "rows": [[600, 179700]], "row_count": 1}
    assert select(probe, "with x as (select 1 a) select a from x;")["rows"] == [[1]]
    assert select(probe, "SELECT count(*) > 0 FROM trellis.users")["rows"] == [[True]]
    many = select(probe, "SELECT km FROM probe.trips ORDER BY km")
    assert (many["row_count"], len(many["rows"]), many["rows"][499]) == (500, 500, [499])
    assert select(probe, "EXPLAIN SELECT 1")["columns"] == ["QUERY PLAN"]
    values = """SELECT NULL, 1.50::numeric, '2026-02-03 08:15+00'::timestamptz, '{"a":[1]}'::jsonb,
        ARRAY[1,2], 'NaN'::float8, '\\x6869'::bytea, gen_random_uuid() IS NOT NULL, 'x y' LIKE '%'"""
    assert select(probe, values)["rows"] == [
        [None, "1.50", "2026-02-03T08:15:00Z", {"a": [1]}, [1, 2], "nan", "aGk=", True, True]
    ]
    # The search path is that of one call only.
    assert error(probe.post(QUERY, {"sql": "SELECT * FROM trips"}))[0] == 400


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("", "sql is empty"),
        (" \n", "sql is empty"),
        ("DELETE FROM probe.trips", "only SELECT statements are accepted"),
        ("/* x */ SELECT 1", "only SELECT statements are accepted"),
        ("SELECTED", "only SELECT statements are accepted"),
        ("SELECT 1; SELECT 2", None),
        ("SELECT * FROM nope", 'relation "nope" does not exist'),
        ("SELECT 1 +", None),
        ("SELECT 1\0", None),
        ("WITH x AS (DELETE FROM probe.trips RETURNING 1) SELECT * FROM x", None),
        ("EXPLAIN ANALYZE DELETE FROM probe.trips", None),
        ("SELECT * INTO probe.copy FROM probe.trips", None),
        ("SELECT * FROM probe.trips FOR UPDATE", None),
        ("SELECT nextval('trellis.audit_log_id_seq')", None),
        ("SELECT set_config('transaction_read_only', 'off', true)", None),
        ("SELECT set_config('role', 'postgres', true)", None),
        ("SELECT pg_read_file('/etc/passwd')", None),
        ("SELECT lo_import('/etc/passwd')", None),
        ("SELECT query_to_xml('DELETE FROM probe.trips', true, true, '')", None),
        ("SELECT 1/0", "division by zero"),
    ],
)
def test_what_is_refused(probe, sql, text):
    status, said = error(probe.post(QUERY, {"sql": sql}))
    assert status == 400, said
    assert text in {None, said}
    assert select(probe, "SELECT count(*) FROM probe.trips")["rows"] == [[600]]


def test_nothing_is_left_behind_and_few_run_at_once(probe, monkeypatch):
    select(probe, "SELECT pg_advisory_lock(1)")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trellis-browser'"
    assert select(probe, sessions)["rows"] == [[1]]
    for _ in range(selects.AT_ONCE):
        selects._room.acquire()
    try:
        refused = (503, "too many concurrent queries; retry")
        assert error(probe.post(QUERY, {"sql": "SELECT 1"})) == refused
    finally:
        selects._room.release(selects.AT_ONCE)
    monkeypatch.setattr(selects, "LIMIT_S", 1)
    assert error(probe.post(QUERY, {"sql": "SELECT pg_sleep(30)"})) == (500, "statement timed out")
