"""Hooks queue jobs in the transaction of the change."""

import uuid

import pytest
from sqlalchemy import text

from app.core.actor import Source
from app.data import service as data_service
from app.jobs import deliveries
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
        {"entityName": "stops", "fields": [{"name": "name", "type": "text"}]},
    ],
}
TRIPS = "/apps/fleet/collections/trips"
HOOKS = "/apps/fleet/hooks"


@pytest.fixture
def fleet(admin):
    assert admin.post("/apps", MANIFEST).status_code == 200
    return admin


@pytest.fixture
def queued(platform):
    """Return the queued jobs, oldest first."""

    def read():
        with platform.engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM trellis.jobs_queue ORDER BY msg_id"))
            return [dict(row) for row in rows.mappings()]

    return read


def hook(client, operation="INSERT", action_type="job", **more):
    answer = client.post(
        HOOKS, {"entity": "trips", "operation": operation, "action_type": action_type, **more}
    )
    assert answer.status_code == 200, answer.json
    return answer.json


def test_a_hook_can_be_made_read_listed_and_deleted(fleet):
    made = hook(fleet, "insert", action_config={"note": 1})
    assert made == {
        "id": made["id"],
        "app_id": "fleet",
        "entity": "trips",
        "operation": "INSERT",
        "action_type": "job",
        "action_config": {"note": 1},
        "active": True,
        "created_by": fleet.user_id,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    second = hook(fleet, "DELETE", "agent")
    assert second["action_config"] == {"app_id": "fleet"}
    assert fleet.get(HOOKS).json == [second, made]
    assert fleet.get(f"{HOOKS}?operation=insert").json == [made]
    assert fleet.get(f"{HOOKS}?entity=stops").json == []
    assert fleet.get("/apps/nope/hooks").json == []
    assert fleet.get(f"{HOOKS}/{made['id']}").json == made
    assert fleet.delete(f"{HOOKS}/{made['id']}").json == {"ok": True}
    assert error(fleet.get(f"{HOOKS}/{made['id']}")) == (404, f"no hook '{made['id']}'")
    assert error(fleet.delete(f"{HOOKS}/x")) == (400, "not a valid UUID: 'x'")
    assert fleet.get(f"/apps/other/hooks/{second['id']}").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"entity": None}, 400, "'entity' is required"),
        ({"operation": None}, 400, "'operation' is required"),
        ({"action_type": None}, 400, "'action_type' is required"),
        ({"operation": "UPSERT"}, 400, "operation must be INSERT, UPDATE or DELETE"),
        ({"action_type": "mail"}, 400, "action_type must be 'job' or 'agent'"),
        ({"action_type": []}, 400, "action_type must be 'job' or 'agent'"),
        ({"action_config": []}, 400, "action_config must be an object"),
        ({"entity": "nope"}, 404, "no entity 'nope' in app 'fleet'"),
    ],
)
def test_bad_hooks(fleet, change, status, words):
    body = {"entity": "trips", "operation": "INSERT", "action_type": "job", **change}
    assert error(fleet.post(HOOKS, body)) == (status, words)
    assert fleet.get(HOOKS).json == []


def test_permissions(fleet):
    user = fleet.sign_up("user@example.com")
    assert error(user.get(HOOKS)) == (403, "missing permission: app:fleet:hook.read")
    assert error(user.post(HOOKS, {})) == (403, "missing permission: app:fleet:hook.write")


def test_every_kind_of_change_queues_exactly_one_job(fleet, queued):
    hooks = {operation: hook(fleet, operation) for operation in ("INSERT", "UPDATE", "DELETE")}
    trip = fleet.post(TRIPS, {"km": 1}).json
    fleet.patch(f"{TRIPS}/{trip['id']}", {"km": 1})
    fleet.delete(f"{TRIPS}/{trip['id']}")
    fleet.post("/apps/fleet/collections/stops", {"name": "x"})
    made, updated, removed = queued()
    for job, operation in ((made, "INSERT"), (updated, "UPDATE"), (removed, "DELETE")):
        assert (job["app_id"], job["route"], job["source"]) == ("fleet", "worker", "hook")
        assert str(job["user_id"]) == fleet.user_id
        assert str(job["hook_id"]) == hooks[operation]["id"]
        assert {**job["payload"], "record": 0, "old_record": 0} == {
            "_hook": True,
            "hook_id": hooks[operation]["id"],
            "entity": "trips",
            "operation": operation,
            "record_id": trip["id"],
            "record": 0,
            "old_record": 0,
            "action_type": "job",
            "action_config": {},
        }
    assert (made["payload"]["record"]["km"], made["payload"]["old_record"]) == (1, None)
    assert updated["payload"]["old_record"]["id"] == updated["payload"]["record"]["id"]
    assert (removed["payload"]["record"], removed["payload"]["old_record"]["km"]) == (None, 1)


def test_a_refused_write_queues_nothing_and_a_deleted_hook_is_silent(fleet, queued):
    made = hook(fleet)
    assert fleet.post(TRIPS, {"km": 500}).status_code == 400
    assert fleet.post(f"{TRIPS}/bulk", [{"km": 1}, {"km": 500}]).status_code == 400
    assert queued() == []
    fleet.delete(f"{HOOKS}/{made['id']}")
    fleet.post(TRIPS, {"km": 1})
    assert queued() == []


def test_equal_hooks_all_fire_for_each_row(fleet, queued):
    hook(fleet)
    hook(fleet)
    fleet.post(f"{TRIPS}/bulk", [{"km": 1}, {"km": 2}])
    assert [job["payload"]["record"]["km"] for job in queued()] == [1, 1, 2, 2]


def test_an_agent_hook_queues_on_the_agents_route(fleet, queued):
    hook(fleet, "INSERT", "agent", action_config={"app_id": "helper"})
    fleet.post(TRIPS, {"km": 1})
    (job,) = queued()
    assert (job["route"], job["payload"]["action_type"]) == ("agent", "agent")
    assert job["payload"]["action_config"] == {"app_id": "helper"}


def test_hooks_outlive_their_owner(fleet, queued):
    user = fleet.sign_up("user@example.com")
    fleet.post("/roles", {"name": "h", "permissions": ["app:fleet:hook.write"]})
    fleet.post("/roles/assign", {"userId": user.user_id, "role": "h"})
    hook(user)
    assert fleet.delete(f"/users/{user.user_id}").status_code == 200
    fleet.post(TRIPS, {"km": 1})
    assert [job["user_id"] for job in queued()] == [None]


def test_the_write_wakes_the_app_after_its_commit(fleet, platform, queued):
    sent = []
    original = platform.publisher.publish
    platform.publisher.publish = lambda messages: sent.extend(messages) or original(messages)
    fleet.post(TRIPS, {"km": 1})
    assert sent == []
    hook(fleet)
    fleet.post(TRIPS, {"km": 1})
    assert [(message.name, message.app_id) for message in sent] == [("jobs.turn", "fleet")]


def test_trigger_hooks_follow_the_manifest(fleet, queued):
    agent = {"appId": "helper", "name": "Helper", "type": "agent"}
    trigger = {"appId": "fleet", "entity": "trips", "on": ["Insert", "delete"]}
    for _ in range(2):
        assert fleet.post("/apps", {**agent, "trigger": trigger}).status_code == 200
        found = fleet.get(HOOKS).json
        assert sorted(h["operation"] for h in found) == ["DELETE", "INSERT"]
        assert all(h["action_config"] == {"app_id": "helper"} for h in found)
    fleet.post(TRIPS, {"km": 1})
    assert len(queued()) == 1
    fleet.post("/apps", agent)
    assert fleet.get(HOOKS).json == []
    fleet.post("/apps", {**agent, "trigger": trigger})
    fleet.delete("/apps/helper")
    assert fleet.get(HOOKS).json == []


def test_a_trigger_needs_the_right_to_read_what_it_watches(fleet):
    user = fleet.sign_up("user@example.com")
    fleet.post("/roles", {"name": "maker", "permissions": ["platform:apps.create"]})
    fleet.post("/roles/assign", {"userId": user.user_id, "role": "maker"})
    trigger = {"appId": "fleet", "entity": "trips", "on": ["insert"]}
    body = {"appId": "helper", "name": "Helper", "trigger": trigger}
    assert error(user.post("/apps", body)) == (403, "missing permission: app:fleet:trips.read")
    assert [app["id"] for app in fleet.get("/apps").json] == ["fleet"]


def test_hooks_go_with_the_app(fleet, queued):
    made = hook(fleet)
    fleet.delete("/apps/fleet")
    fleet.post("/apps", MANIFEST)
    fleet.post(TRIPS, {"km": 1})
    assert queued() == []
    assert uuid.UUID(made["id"])
    assert fleet.get(HOOKS).json == []


def test_a_hook_that_fires_itself_ends_as_a_dead_letter(fleet, platform, queued):
    hook(fleet)
    fleet.post(TRIPS, {"km": 1})
    (first,) = queued()
    assert "_depth" not in first["payload"]
    depths = []
    for _ in range(30):
        with platform.uow() as uow:
            taken = deliveries.take(uow, platform.settings.jobs, app_id="fleet", most=9)
        if not taken.assignments:
            break
        (assignment,) = taken.assignments
        depths.append(assignment.actor.hook_depth)
        # What the handler does: another row of the entity it is told about.
        with platform.uow() as uow:
            data_service.collection_op(
                uow,
                assignment.actor.via(Source.COLLECTION),
                app_id="fleet",
                op="insert",
                entity="trips",
                data={"km": 1},
                options={},
                unrestricted=False,
            )
            deliveries.complete(uow, assignment.delivery.msg_id)
    assert depths == list(range(1, 17))
    with platform.engine.connect() as connection:
        rows = connection.execute(text("SELECT reason, payload FROM trellis.jobs_dead")).all()
    assert [(reason, payload["_depth"]) for reason, payload in rows] == [
        ("hook loop: 16 hooks in a row", 16)
    ]
