"""Creating, reading, changing and deleting records over HTTP."""

import re
import uuid

import pytest

from tests.api.data.conftest import ALL_TYPES, CODES, DRIVERS, VEHICLES
from tests.support.api import error

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


def make(client, path, **fields):
    answer = client.post(path, fields)
    assert answer.status_code == 201, answer.json
    return answer.json


def test_a_record_of_every_type_comes_back_as_it_was_sent(fleet):
    driver = make(fleet, DRIVERS, name="Ana")
    sent = {
        "plate": "1-ABC-234",
        "km": 18250,
        "active": False,
        "bought_on": "2025-11-04",
        "seen_at": "2026-02-03T08:15:00Z",
        "extra": {"a": [1, None, {"b": "ü"}]},
        "photo": "file-1",
        "external": "5B2C6C1E-0B5A-4A53-9A0E-6A2F5A1F7C11",
        "tags": ["van", 'le"a\\se', "{x,y}", ""],
        "scores": [1, 2.5, -3],
        "status": "new",
        "kind": "2026-01-01",
        "driver_id": driver["id"],
        "owner_id": fleet.user_id,
    }
    record = make(fleet, VEHICLES, **sent)
    expected = {**sent, "external": sent["external"].lower()}
    assert {name: record[name] for name in sent} == expected
    assert list(record) == ["id", *sent, "created_at", "updated_at"]
    assert STAMP.fullmatch(record["created_at"])
    assert uuid.UUID(record["id"])
    assert fleet.get(f"{VEHICLES}/{record['id']}").json == record
    assert '"km":18250,' in fleet.get(f"{VEHICLES}/{record['id']}").text.replace(": ", ":")


def test_values_are_brought_to_the_type_of_their_field(fleet):
    record = make(
        fleet,
        VEHICLES,
        plate=12.5,
        km="42.50",
        active="1",
        seen_at="2026-02-03 09:15:00.120931+01:00",
        kind={"a": 1},
    )
    assert record["plate"] == "12.5"
    assert record["km"] == 42.5
    assert record["active"] is True
    assert record["seen_at"] == "2026-02-03T08:15:00.120931Z"
    assert record["kind"] == '{"a":1}'
    assert (
        make(fleet, VEHICLES, plate="x", seen_at="2026-02-03")["seen_at"] == "2026-02-03T00:00:00Z"
    )


def test_defaults_fill_missing_fields_but_not_null(fleet):
    assert make(fleet, VEHICLES, plate="a")["active"] is True
    optional = [f["name"] for f in ALL_TYPES["dataContract"][0]["fields"] if not f.get("required")]
    nulls = make(fleet, VEHICLES, plate="b", **dict.fromkeys(optional))
    assert [nulls[name] for name in optional] == [None] * len(optional)


@pytest.mark.parametrize(
    ("field", "value", "type_name"),
    [
        ("plate", "a\0b", "text"),
        ("km", "abc", "number"),
        ("km", [1], "number"),
        ("km", "NaN", "number"),
        ("active", "yes", "boolean"),
        ("active", 2, "boolean"),
        ("bought_on", "2025-02-30", "date"),
        ("bought_on", "2025-2-3", "date"),
        ("bought_on", 20250203, "date"),
        ("seen_at", "yesterday", "timestamp"),
        ("seen_at", "2026-02-03T25:00:00Z", "timestamp"),
        ("seen_at", "0001-01-01T00:00:00+23:59", "timestamp"),
        ("photo", 5, "file"),
        ("external", "xyz", "uuid"),
        ("external", 5, "uuid"),
        ("tags", "van", "[text]"),
        ("tags", ["a", None], "[text]"),
        ("scores", ["1"], "[number]"),
        ("scores", [True], "[number]"),
        ("driver_id", "nope", "entity_link"),
    ],
)
def test_a_wrong_value_names_the_field(shared_fleet, field, value, type_name):
    body = {"plate": "a", field: value}
    answer = shared_fleet.post(VEHICLES, body)
    assert error(answer) == (400, f"field '{field}': expected {type_name}")
    assert shared_fleet.get(VEHICLES).json == []


def test_infinite_numbers_are_refused(fleet):
    for raw, field in (
        (b'{"plate":"a","km":1e999}', "km"),
        (b'{"plate":"a","extra":[1e999]}', "extra"),
    ):
        answer = fleet.post(VEHICLES, data=raw)
        kind = {"km": "number", "extra": "json"}[field]
        assert error(answer) == (400, f"field '{field}': expected {kind}")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([1], "body must be an object"),
        ({}, "body must not be empty"),
        ({"id": "x", "created_at": 1}, "nothing to write: send at least one field"),
        ({"plate": "a", "wheels": 4}, "unknown field 'wheels'"),
        ({"km": 1}, "missing required field: 'plate'"),
        ({"plate": None}, "missing required field: 'plate'"),
        ({"plate": "a", "status": "old"}, "field 'status': 'old' is not one of: new, used"),
        ({"plate": "a", "km": -1}, "check 'km_positive' not satisfied"),
    ],
)
def test_a_bad_body_is_refused(shared_fleet, body, text):
    assert error(shared_fleet.post(VEHICLES, body)) == (400, text)


def test_broken_json_is_refused_before_anything_else(fleet):
    answer = fleet.post("/apps/nope/collections/nope", data=b"{")
    assert error(answer) == (400, "request body is not valid JSON")


def test_constraints_answer_409(fleet):
    make(fleet, VEHICLES, plate="a")
    assert error(fleet.post(VEHICLES, {"plate": "a"})) == (409, "duplicate value for plate")
    missing = str(uuid.uuid4())
    body = {"plate": "b", "driver_id": missing}
    assert error(fleet.post(VEHICLES, body)) == (
        409,
        f"field 'driver_id': no 'drivers' with id '{missing}'",
    )
    body = {"plate": "b", "owner_id": missing}
    assert error(fleet.post(VEHICLES, body)) == (
        409,
        f"field 'owner_id': no 'core:users' with id '{missing}'",
    )


def test_system_columns_in_a_body_are_ignored(fleet):
    record = make(fleet, VEHICLES, plate="a", id="x", created_at="y", updated_at="z")
    changed = fleet.patch(f"{VEHICLES}/{record['id']}", {"id": "x", "updated_at": "z"})
    assert changed.status_code == 200
    assert changed.json["id"] == record["id"]
    assert changed.json["updated_at"] > record["updated_at"]


def test_patch_changes_only_what_was_sent(fleet):
    record = make(fleet, VEHICLES, plate="a", km=1, tags=["x"])
    path = f"{VEHICLES}/{record['id']}"
    changed = fleet.patch(path, {"km": None, "tags": []}).json
    assert (changed["plate"], changed["km"], changed["tags"]) == ("a", None, [])
    assert error(fleet.patch(path, {"plate": None})) == (400, "missing required field: 'plate'")
    assert error(fleet.patch(path, {})) == (400, "body must not be empty")
    assert error(fleet.patch(path, {"nope": 1})) == (400, "unknown field 'nope'")
    assert fleet.get(path).json == changed


def test_delete_twice(fleet):
    record = make(fleet, VEHICLES, plate="a")
    path = f"{VEHICLES}/{record['id']}"
    assert fleet.delete(path).json == {"message": f"record '{record['id']}' deleted"}
    assert error(fleet.delete(path)) == (404, f"no record '{record['id']}'")
    assert error(fleet.get(path)) == (404, f"no record '{record['id']}'")
    assert error(fleet.patch(path, {"km": 1})) == (404, f"no record '{record['id']}'")


def test_the_first_failing_check_decides(fleet, clerk):
    nobody = clerk("nobody")
    assert error(fleet.get("/apps/trellis/collections/users")) == (
        403,
        "schema 'trellis' is off limits",
    )
    assert error(nobody.get("/apps/pg_x/collections/a")) == (403, "schema 'pg_x' is off limits")
    for path in ("/apps/fleet/collections/nope", "/apps/nope/collections/vehicles"):
        app, entity = path.split("/")[2], path.split("/")[4]
        assert error(nobody.get(path)) == (404, f"no entity '{entity}' in app '{app}'")
    assert error(nobody.get(f"{VEHICLES}/x")) == (400, "not a valid UUID: 'x'")
    assert error(nobody.post(VEHICLES, [])) == (
        403,
        "missing permission: app:fleet:vehicles.create",
    )
    assert error(fleet.get("/apps/core/collections/users")) == (
        404,
        "no entity 'users' in app 'core'",
    )


def test_each_permission_allows_its_own_method_only(fleet, clerk):
    record = make(fleet, VEHICLES, plate="a")
    path = f"{VEHICLES}/{record['id']}"
    reader = clerk("reader", "app:fleet:vehicles.read")
    assert reader.get(VEHICLES).json == [record]
    assert reader.get(path).json == record
    for answer, action in (
        (reader.post(VEHICLES, {"plate": "b"}), "create"),
        (reader.patch(path, {"km": 1}), "update"),
        (reader.delete(path), "delete"),
    ):
        assert error(answer) == (403, f"missing permission: app:fleet:vehicles.{action}")
    assert reader.get(DRIVERS).status_code == 403
    writer = clerk("writer", "app:fleet:vehicles.update")
    assert writer.patch(path, {"km": 2}).json["km"] == 2
    assert writer.get(VEHICLES).status_code == 403
    other = clerk("other", "app:billing:*")
    assert other.get(VEHICLES).status_code == 403
    revoked = fleet.post("/roles/revoke", {"userId": reader.user_id, "role": "reader"})
    assert revoked.status_code == 200
    assert reader.get(VEHICLES).status_code == 403


def test_text_keyed_entities(fleet):
    assert error(fleet.post(CODES, {"label": "x"})) == (400, "missing required field: 'id'")
    assert make(fleet, CODES, id="a/1", label="x")["id"] == "a/1"
    make(fleet, CODES, id="b")
    assert error(fleet.post(CODES, {"id": "b"})) == (409, "duplicate value for id")
    assert fleet.get(f"{CODES}/b").json["id"] == "b"
    assert error(fleet.get(f"{CODES}/zzz")) == (404, "no record 'zzz'")
    assert fleet.patch(f"{CODES}/b", {"label": "y", "id": "c"}).json["id"] == "b"


def test_delete_rules(fleet):
    driver = make(fleet, DRIVERS, name="Ana")
    vehicle = make(fleet, VEHICLES, plate="a", driver_id=driver["id"])
    assert fleet.delete(f"{DRIVERS}/{driver['id']}").status_code == 200
    assert fleet.get(f"{VEHICLES}/{vehicle['id']}").json["driver_id"] is None


def test_a_user_whom_a_restrict_link_needs_cannot_be_deleted(admin):
    def install(rule):
        owner = {"name": "owner", "type": "entity_link", "references": {"entity": "core:users"}}
        entity = {"entityName": "notes", "fields": [{**owner, "on_delete": rule}]}
        assert (
            admin.post("/apps", {"appId": "n", "name": "N", "dataContract": [entity]}).status_code
            == 200
        )

    install("restrict")
    user = admin.sign_up("user@example.com").user_id
    note = make(admin, "/apps/n/collections/notes", owner=user)
    assert admin.delete(f"/users/{user}").status_code == 409
    install("set_null")
    assert admin.delete(f"/users/{user}").status_code == 200
    assert admin.get(f"/apps/n/collections/notes/{note['id']}").json["owner"] is None
