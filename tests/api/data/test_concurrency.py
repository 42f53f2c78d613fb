"""Installs beside requests, and statements that take too long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.data import registry
from tests.support.api import error

TRIPS = "/apps/probe/collections/trips"


def manifest(*names):
    fields = [{"name": name, "type": "text"} for name in names]
    return {
        "appId": "probe",
        "name": "P",
        "dataContract": [{"entityName": "trips", "fields": fields}],
    }


@pytest.fixture
def probe(admin):
    assert admin.post("/apps", manifest("a", "b")).status_code == 200
    return admin


def test_installs_of_one_app_run_one_after_the_other(probe):
    bodies = [manifest("a", "b"), manifest("a", "c"), manifest("b"), manifest("a", "b")] * 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda body: probe.post("/apps", body), bodies))
    assert [answer.status_code for answer in answers] == [200] * len(bodies)
    declared = probe.get("/apps/probe").json["dataContract"][0]["fields"]
    record = probe.post(TRIPS, {declared[0]["name"]: "x"}).json
    assert set(record) == {"id", "created_at", "updated_at"} | {f["name"] for f in declared}


def test_requests_never_fail_while_an_app_changes(probe):
    stop = threading.Event()
    seen = set()

    def work():
        while not stop.is_set():
            made = probe.post(TRIPS, {"a": "x"})
            seen.add((made.status_code, made.json.get("error")))
            seen.add((probe.get(f"{TRIPS}?limit=5").status_code, None))
            seen.add((probe.get(TRIPS).status_code, None))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for n in range(10):
        assert probe.post("/apps", manifest("a", f"x{n}")).status_code == 200
    stop.set()
    for worker in workers:
        worker.join()
    assert seen == {(201, None), (200, None)}


def test_a_contract_that_changed_after_it_was_read_is_read_again(probe, monkeypatch):
    """Play the one moment that threads rarely hit: the install lands between read and use."""
    load = registry.load
    pending = [manifest("c"), manifest("a", "d")]

    def load_then_install(session, app_id, stamp):
        found = load(session, app_id, stamp)
        if pending:
            body = pending.pop(0)
            monkeypatch.setattr(registry, "load", load)
            assert probe.post("/apps", body).status_code == 200
        return found

    monkeypatch.setattr(registry, "load", load_then_install)
    assert error(probe.post(TRIPS, {"a": "x"})) == (400, "unknown field 'a'")
    monkeypatch.setattr(registry, "load", load_then_install)
    assert probe.get(TRIPS).json == []


@pytest.mark.timeout(60)
def test_a_statement_over_its_limit_is_cancelled(probe, platform):
    slow = """CREATE FUNCTION probe.slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$"""
    with platform.engine.begin() as connection:
        connection.execute(text(slow))
        connection.execute(
            text(
                "CREATE TRIGGER slow BEFORE INSERT ON probe.trips FOR EACH ROW EXECUTE FUNCTION probe.slow()"
            )
        )
    assert error(probe.post(TRIPS, {"a": "x"})) == (500, "statement timed out")
    assert probe.get(TRIPS).json == []
