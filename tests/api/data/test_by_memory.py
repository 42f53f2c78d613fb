"""Requests that are one statement, and what happens when what is remembered does not hold."""

import pytest

from app.core import statements
from tests.support.api import error
from tests.support.sql import spoken

TRIPS = "/apps/probe/collections/trips"


def manifest(kind="text", **more):
    fields = [{"name": "a", "type": kind}, *({"name": n, "type": t} for n, t in more.items())]
    contract = [{"entityName": "trips", "fields": fields}]
    return {"appId": "probe", "name": "P", "dataContract": contract}


@pytest.fixture
def probe(admin):
    assert admin.post("/apps", manifest()).status_code == 200
    return admin


@pytest.fixture
def driver(probe):
    """Somebody who may do everything with the app's records, and has done so."""
    keys = [f"app:probe:trips.{action}" for action in ("create", "read", "update", "delete")]
    assert probe.post("/roles", {"name": "driver", "permissions": keys}).status_code == 200
    user = probe.sign_up("driver@example.com")
    probe.post("/roles/assign", {"userId": user.user_id, "role": "driver"})
    for _ in range(3):
        made = user.post(TRIPS, {"a": "1"})
        assert made.status_code == 201, made.json
        assert len(user.get(f"{TRIPS}?limit=5").json) == 1
        assert user.get(f"{TRIPS}/{made.json['id']}").status_code == 200
        assert user.delete(f"{TRIPS}/{made.json['id']}").status_code == 200
    return user


@pytest.fixture
def messages(platform):
    with spoken(platform.engine) as sent:
        yield sent


def test_a_request_is_one_message_with_a_prepared_statement(driver, messages):
    made = driver.post(TRIPS, {"a": "1"}).json
    assert driver.get(f"{TRIPS}?limit=5").json == [made]
    assert driver.patch(f"{TRIPS}/{made['id']}", {"a": "2"}).json["a"] == "2"
    assert driver.delete(f"{TRIPS}/{made['id']}").status_code == 200
    assert len(messages) == 4
    assert sum("EXECUTE trellis_" in text for text in messages) == 3  # the patch was the first
    assert all("trellis.expect_v1" in text for text in messages)


def test_errors_are_those_of_the_usual_way(driver, messages):
    assert error(driver.post(TRIPS, {"zz": 1})) == (400, "unknown field 'zz'")
    assert len(messages) > 1
    unknown = "5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11"
    assert error(driver.delete(f"{TRIPS}/{unknown}")) == (404, f"no record '{unknown}'")
    assert error(driver.get("/apps/probe/collections/zz?limit=1"))[0] == 404


def test_a_change_of_authority_acts_on_the_next_request(probe, driver):
    grant = {"userId": driver.user_id, "role": "driver"}
    probe.post("/roles/revoke", grant)
    refused = (403, "missing permission: app:probe:trips.create")
    assert error(driver.post(TRIPS, {"a": "1"})) == refused
    probe.post("/roles/assign", grant)
    assert driver.post(TRIPS, {"a": "1"}).status_code == 201
    assert probe.delete(f"/users/{driver.user_id}").status_code == 200
    assert error(driver.get(f"{TRIPS}?limit=1"))[0] == 401
    assert len(probe.get(f"{TRIPS}?limit=5").json) == 1


def test_an_install_acts_on_the_next_request(probe, driver):
    assert error(driver.post(TRIPS, {"b": 1})) == (400, "unknown field 'b'")
    assert probe.post("/apps", manifest("number", b="number")).status_code == 200
    for _ in range(3):
        made = driver.post(TRIPS, {"a": "1", "b": 2})
        assert (made.json["a"], made.json["b"]) == (1, 2)
    assert [row["a"] for row in driver.get(f"{TRIPS}?limit=2").json] == [1, 1]
    assert len(driver.get(f"{TRIPS}?limit=5&b=2").json) == 3
    assert probe.delete("/apps/probe").status_code == 200
    assert error(driver.get(f"{TRIPS}?limit=5")) == (404, "no entity 'trips' in app 'probe'")
    assert error(driver.post(TRIPS, {"a": "1"})) == (404, "no entity 'trips' in app 'probe'")


def test_a_new_hook_is_fired_and_audited_in_the_same_statement(probe, driver):
    hook = {"entity": "trips", "operation": "INSERT", "action_type": "job"}
    assert probe.post("/apps/probe/hooks", hook).status_code == 200
    made = driver.post(TRIPS, {"a": "1"}).json
    (job,) = probe.get("/apps/probe/jobs").json
    assert job["payload"]["record_id"] == made["id"]
    entry = probe.get("/audit?app_id=probe&limit=1").json[0]
    assert (entry["record_id"], entry["actor_uid"]) == (made["id"], driver.user_id)
    assert entry["trigger_ref"] == "api"


def test_refused_statements_do_not_pile_up_on_a_connection(probe, driver, platform):
    unique = {**manifest(), "version": "2"}
    unique["dataContract"][0]["indexes"] = [{"columns": ["a"], "unique": True}]
    assert probe.post("/apps", unique).status_code == 200
    assert driver.post(TRIPS, {"a": "1"}).status_code == 201
    for _ in range(12):
        assert error(driver.post(TRIPS, {"a": "1"})) == (409, "duplicate value for a")
        assert error(driver.post(TRIPS, {"a": "a\0b"}))[0] == 400
    assert driver.post(TRIPS, {"a": "2"}).status_code == 201
    assert prepared(platform) <= 8


def prepared(platform):
    with platform.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()


def test_many_texts_do_not_pile_up_on_a_connection(driver, monkeypatch, platform):
    monkeypatch.setattr(statements, "MOST_PREPARED", 4)
    for limit in [*range(1, 9), *range(1, 9)]:
        for _ in range(2):
            assert driver.get(f"{TRIPS}?limit={limit}").json == []
    assert prepared(platform) <= 8
