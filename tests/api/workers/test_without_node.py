"""Workers, RPC and logs as far as they need no node."""

import threading
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.workers import repository
from app.workers import service as workers_service
from tests.support.api import error
from tests.support.stack import wait_until


@pytest.fixture
def crm(admin):
    assert admin.post("/apps", {"appId": "crm", "name": "CRM"}).status_code == 200
    return admin


def rpc(client, body, app="crm"):
    return client.post(f"/apps/{app}/rpc", body)


def test_an_app_that_was_never_deployed_is_stopped(crm):
    assert crm.get("/apps/crm/worker/status").json == {
        "app_id": "crm",
        "status": "stopped",
        "desired": "stopped",
        "deployment_id": None,
        "started_at": None,
        "restarts": 0,
        "last_error": None,
        "sandbox": None,
    }
    assert crm.get("/workers").json == {"workers": {}}
    assert crm.post("/apps/crm/worker/stop").json == {"message": "worker 'crm' stopped"}
    text = "no worker code deployed for app 'crm'"
    assert error(crm.post("/apps/crm/worker/start")) == (400, text)


def test_an_unknown_app_is_404(admin):
    for answer in (
        admin.get("/apps/nope/worker/status"),
        admin.post("/apps/nope/worker/start"),
        admin.post("/apps/nope/worker/stop"),
        admin.get("/apps/nope/logs"),
        admin.get("/apps/nope/deployments"),
        rpc(admin, {"method": "x"}, "nope"),
    ):
        assert error(answer) == (404, "no app 'nope'")


def test_a_schema_of_the_platform_is_off_limits(admin):
    answer = rpc(admin, {"method": "x"}, "trellis")
    assert error(answer) == (403, "schema 'trellis' is off limits")


@pytest.mark.parametrize(
    "body", [{}, {"method": ""}, {"method": 1}, {"method": None}, {"method": ["x"]}]
)
def test_a_call_names_its_method(crm, body):
    assert error(rpc(crm, body)) == (400, "missing 'method'")


@pytest.mark.parametrize("name", ["__integration", "__webhook", "__x"])
def test_reserved_methods_are_refused(crm, name):
    assert error(rpc(crm, {"method": name})) == (400, f"method '{name}' is reserved")


def test_without_code_the_worker_is_not_running(crm):
    assert error(rpc(crm, {"method": "x"})) == (503, "worker for app 'crm' is not running")


def test_permissions(client, crm):
    user = client.sign_up("ben@example.com")
    needs = "missing permission: app:crm:"
    assert error(rpc(user, {"method": "x"})) == (403, f"{needs}invoke")
    assert error(user.get("/apps/crm/logs")) == (403, f"{needs}logs.read")
    for path in ("/apps/crm/worker/start", "/apps/crm/worker/stop"):
        assert error(user.post(path)) == (403, "administrator permission required")
    assert error(user.get("/workers")) == (403, "administrator permission required")
    assert user.get("/apps/crm/worker/status").status_code == 200


@pytest.mark.parametrize("tail", ["-1", "257", "x", "1.5", ""])
def test_the_tail_is_a_number_up_to_the_buffer(crm, tail):
    assert error(crm.get(f"/apps/crm/logs?tail={tail}")) == (400, "tail must be 0-256")


def test_rolling_back_needs_a_kept_deployment(crm):
    path = "/apps/crm/deployments/{}/activate"
    unknown = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
    assert error(crm.post(path.format("x"))) == (400, "not a valid UUID: 'x'")
    assert error(crm.post(path.format(unknown))) == (404, f"deployment '{unknown}' not found")


def events(response, most):
    """Return the first events of an open stream, and close it."""
    found = []
    for chunk in response.iter_encoded():
        found += [event for event in chunk.decode().split("\n\n") if event]
        if len(found) >= most:
            break
    response.close()
    return found


def add(platform, number, app="crm"):
    fields = {"level": "info", "message": f"line {number}", "ts": "t", "process": "n/1"}
    return platform.redis.xadd(f"logs:{app}", {**fields, "number": f"n/b:{number}"}, maxlen=256)


def test_a_log_replays_its_tail_and_goes_on(crm, platform):
    ids = [add(platform, n) for n in range(5)]
    response = crm.get("/apps/crm/logs?tail=2")
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    stream = response.iter_encoded()
    assert next(stream) == b": keep-alive\n\n"
    replayed = next(stream).decode()
    line = '{"level":"info","message":"line 3","ts":"t","process":"n/1"}'
    assert replayed.startswith(f"id: {ids[3]}\ndata: {line}\n\n")
    assert "line 4" in replayed
    assert "line 2" not in replayed
    newest = add(platform, 5)
    assert next(stream).decode().startswith(f"id: {newest}\n")
    response.close()


def test_a_log_goes_on_after_the_last_event(crm, platform):
    ids = [add(platform, n) for n in range(4)]
    response = crm.get("/apps/crm/logs", headers={"Last-Event-ID": ids[1]})
    found = events(response, 3)
    assert [event.split("\n")[0] for event in found[1:]] == [f"id: {ids[2]}", f"id: {ids[3]}"]


def test_a_reader_that_was_overtaken_is_told(crm, platform):
    response = crm.get("/apps/crm/logs")
    stream = response.iter_encoded()
    next(stream)
    add(platform, 1)
    assert "line 1" in next(stream).decode()
    add(platform, 8)
    assert "6 log entries dropped" in next(stream).decode()
    response.close()


def test_subscribers_of_one_app_share_one_reader(crm, platform):
    responses = [crm.get("/apps/crm/logs") for _ in range(20)]
    streams = [response.iter_encoded() for response in responses]
    for stream in streams:
        next(stream)

    def readers():
        return [thread.name for thread in threading.enumerate()].count("log-feed")

    # Those of earlier tests end within a second.
    wait_until(lambda: readers() == 1, what="one reader")
    add(platform, 1)
    assert all("line 1" in next(stream).decode() for stream in streams)
    for response in responses:
        response.close()


def test_deployments_left_half_way_are_pruned(crm, platform):
    ids = {name: uuid4() for name in ("old", "new", "current")}
    with platform.uow() as uow:
        for number, deployment_id in enumerate(ids.values()):
            values = {"id": deployment_id, "app_id": "crm", "archive": b"x", "size_bytes": 1}
            repository.add_deployment(uow.session, **values, sha256=f"{number}")
        repository.make_current(uow.session, "crm", ids["current"])
        uow.session.execute(
            sa.text(
                "UPDATE trellis.deployments SET created_at = now() - interval '2 days' WHERE id <> :id"
            ),
            {"id": ids["new"]},
        )
    with platform.uow() as uow:
        assert workers_service.prune(uow, platform.settings.jobs) == 1
    with platform.uow() as uow:
        left = set(uow.session.scalars(sa.text("SELECT id FROM trellis.deployments")))
    assert left == {ids["new"], ids["current"]}
