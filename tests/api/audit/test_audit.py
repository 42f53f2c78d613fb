"""Every change of a row is in the audit log, once, and nobody can take it out."""

from datetime import datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tests.support.api import error

MANIFEST = {
    "appId": "fleet",
    "name": "Fleet",
    "dataContract": [
        {
            "entityName": "trips",
            "fields": [{"name": "km", "type": "number"}],
            "checks": [{"expr": "km < 100"}],
        },
        {
            "entityName": "stops",
            "fields": [
                {
                    "name": "trip",
                    "type": "entity_link",
                    "references": {"entity": "trips"},
                    "on_delete": "cascade",
                }
            ],
        },
    ],
}
TRIPS = "/apps/fleet/collections/trips"
STOPS = "/apps/fleet/collections/stops"


@pytest.fixture
def fleet(admin):
    assert admin.post("/apps", MANIFEST).status_code == 200
    return admin


def entries(client, query=""):
    answer = client.get(f"/audit{query}")
    assert answer.status_code == 200, answer.json
    return answer.json


def instant(written):
    return datetime.fromisoformat(written)


def test_each_change_gives_one_entry(fleet):
    trip = fleet.post(TRIPS, {"km": 10}).json
    changed = fleet.patch(f"{TRIPS}/{trip['id']}", {"km": 25}).json
    fleet.delete(f"{TRIPS}/{trip['id']}")
    removed, updated, made = entries(fleet)
    assert list(made) == [
        *("id", "table_schema", "table_name", "record_id", "operation", "old_record", "new_record"),
        *("actor_uid", "delegator_uid", "trigger_ref", "changed_at"),
    ]
    for entry in (made, updated, removed):
        assert (entry["table_schema"], entry["table_name"]) == ("fleet", "trips")
        assert (entry["record_id"], entry["actor_uid"]) == (trip["id"], fleet.user_id)
        assert (entry["delegator_uid"], entry["trigger_ref"]) == (None, "api")
        assert entry["changed_at"].endswith("Z")
    assert (made["operation"], made["old_record"], made["new_record"]["km"]) == ("INSERT", None, 10)
    assert instant(made["new_record"]["created_at"]) == instant(trip["created_at"])
    assert made["new_record"]["created_at"].endswith("+00:00")
    assert (updated["old_record"]["km"], updated["new_record"]["km"]) == (10, 25)
    assert instant(removed["old_record"]["updated_at"]) == instant(changed["updated_at"])
    assert removed["new_record"] is None
    assert updated["id"] - made["id"] == removed["id"] - updated["id"] == 1


def test_refused_and_rolled_back_writes_leave_nothing(fleet):
    assert fleet.post(TRIPS, {"km": 500}).status_code == 400
    assert fleet.post(f"{TRIPS}/bulk", [{"km": 1}, {"km": 500}]).status_code == 400
    assert entries(fleet) == []


def test_cascades_and_bulk_rows_are_logged_one_by_one(fleet):
    trip = fleet.post(TRIPS, {"km": 1}).json["id"]
    fleet.post(f"{STOPS}/bulk", [{"trip": trip}, {"trip": trip}])
    fleet.delete(f"{TRIPS}/{trip}")
    kinds = sorted((e["table_name"], e["operation"]) for e in entries(fleet))
    assert kinds == [("stops", "DELETE")] * 2 + [("stops", "INSERT")] * 2 + [
        ("trips", "DELETE"),
        ("trips", "INSERT"),
    ]


def test_owner_level_sql_is_logged_without_actor(fleet, platform):
    with platform.engine.begin() as connection:
        connection.execute(text("INSERT INTO fleet.trips (km) VALUES (1)"))
    (entry,) = entries(fleet)
    assert (entry["actor_uid"], entry["trigger_ref"]) == (None, None)


def test_schema_sync_and_uninstall_write_no_entries_and_keep_the_old_ones(fleet):
    fleet.post(TRIPS, {"km": None})
    again = {
        **MANIFEST,
        "dataContract": [
            {
                "entityName": "trips",
                "fields": [{"name": "km", "type": "number", "required": True, "default_value": 7}],
            }
        ],
    }
    assert fleet.post("/apps", again).status_code == 200
    assert fleet.get(TRIPS).json[0]["km"] == 7
    fleet.delete("/apps/fleet")
    assert [e["operation"] for e in entries(fleet)] == ["INSERT"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trellis.audit_log SET operation = 'x'",
        "DELETE FROM trellis.audit_log",
        "TRUNCATE trellis.audit_log",
    ],
)
def test_the_log_cannot_be_changed(fleet, platform, statement):
    fleet.post(TRIPS, {"km": 1})
    with (
        pytest.raises(ProgrammingError, match="cannot be changed"),
        platform.engine.begin() as connection,
    ):
        connection.execute(text(statement))
    assert len(entries(fleet)) == 1


def test_filters_and_paging(fleet):
    for km in range(5):
        fleet.post(TRIPS, {"km": km})
    stop = fleet.post(STOPS, {"trip": None}).json["id"]
    everything = entries(fleet)
    assert [e["id"] for e in everything] == sorted((e["id"] for e in everything), reverse=True)
    assert [e["record_id"] for e in entries(fleet, "?app_id=fleet&entity=stops")] == [stop]
    assert len(entries(fleet, "?app_id=nope")) == 0
    assert len(entries(fleet, "?table_name__neq=stops")) == 5
    assert len(entries(fleet, "?table_name__contains=RIP")) == 5
    assert len(entries(fleet, f"?record_id={stop}")) == 1
    assert len(entries(fleet, "?operation=UPDATE")) == 0
    first, second = entries(fleet, "?limit=2"), everything[1]["id"]
    assert first == everything[:2]
    assert entries(fleet, f"?before={second}&limit=2") == everything[2:4]
    assert len(entries(fleet, "?before=x&limit=zz&offset=3&unknown=1&km__foo=1")) == 6
    assert len(entries(fleet, "?limit=0")) == 1
    oldest_first = entries(fleet, "?order=asc&order_by=table_name")
    assert [e["table_name"] for e in oldest_first] == ["stops"] + ["trips"] * 5
    assert [e["id"] for e in oldest_first[1:]] == sorted(e["id"] for e in oldest_first[1:])
    middle = everything[3]["changed_at"]
    assert entries(fleet, f"?changed_at__gte={middle}") == everything[:4]
    assert entries(fleet, f"?changed_at={middle}") == [everything[3]]
    assert error(fleet.get("/audit?changed_at__lte=soon")) == (
        400,
        "changed_at: 'soon' is not a valid timestamp",
    )


def test_only_holders_of_the_key_read_the_log(fleet):
    user = fleet.sign_up("user@example.com")
    assert error(user.get("/audit")) == (403, "missing permission: admin:audit.read")


def test_security_events_have_their_own_source(fleet):
    kinds = {event["event"] for event in entries(fleet, "?source=security")}
    assert {"user_registered", "login_succeeded"} <= kinds
    registered = entries(fleet, "?source=security&event=user_registered")
    assert {event["event"] for event in registered} == {"user_registered"}
