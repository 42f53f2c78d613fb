import json
import uuid

import pytest
from sqlalchemy import text

from tests.support.api import error

JOBS = "/apps/crm/jobs"


@pytest.fixture
def app(admin):
    answer = admin.post("/apps", {"appId": "crm", "name": "CRM"})
    assert answer.status_code == 200, answer.json
    return admin


@pytest.fixture
def ben(app, client):
    """Somebody who may invoke the app and nothing else."""
    app.post("/roles", {"name": "invoker", "permissions": ["app:crm:invoke"]})
    ben = client.sign_up("ben@example.com")
    app.post("/roles/assign", {"userId": ben.user_id, "role": "invoker"})
    return ben


def enqueue(client, **body):
    answer = client.post(JOBS, body)
    assert answer.status_code == 201, answer.json
    return answer.json["msg_id"]


def run_sql(platform, statement, **values):
    with platform.uow() as uow:
        result = uow.session.execute(text(statement), values)
        return result.all() if result.returns_rows else None


def test_enqueue_answers_with_the_id_and_lists_the_job(app):
    first = enqueue(app, payload={"type": "send_report", "userId": "x"})
    second = enqueue(app)
    assert second > first
    listed = app.get(JOBS).json
    assert [job["msg_id"] for job in listed] == [second, first]
    enqueued_at = listed[1].pop("enqueued_at")
    assert enqueued_at.endswith("Z")
    assert listed[1] == {
        "msg_id": first,
        "app_id": "crm",
        "payload": {"type": "send_report", "userId": "x"},
        "user_id": app.user_id,
        "read_ct": 0,
    }
    assert listed[0]["payload"] == {}


@pytest.mark.parametrize("payload", [None, 5, "text", [1, {"a": None}], True, {"ümläut": "€😀"}])
def test_any_json_value_is_a_payload(app, payload):
    msg_id = enqueue(app, payload=payload)
    assert app.get(f"{JOBS}/{msg_id}").json["payload"] == payload


def test_forged_headers_in_a_payload_are_only_payload(app, platform):
    payload = {"_hook": True, "cron_id": str(uuid.uuid4()), "source": "cron", "route": "agent"}
    msg_id = enqueue(app, payload=payload)
    (row,) = run_sql(
        platform,
        "SELECT source, route, cron_id, hook_id, payload FROM trellis.jobs_queue WHERE msg_id = :id",
        id=msg_id,
    )
    assert tuple(row) == ("api", "worker", None, None, payload)


def test_invoke_is_needed(app, client, ben):
    stranger = client.sign_up("eve@example.com")
    for answer in (stranger.post(JOBS, {}), stranger.get(JOBS)):
        assert error(answer) == (403, "missing permission: app:crm:invoke")
    assert error(client.post(JOBS, {})) == (401, "authentication required")
    assert enqueue(ben) > 0
    assert len(ben.get(JOBS).json) == 1


def test_the_owner_is_the_caller(app, ben):
    assert enqueue(app, user_id=app.user_id) > 0
    assert error(app.post(JOBS, {"user_id": ben.user_id})) == (
        403,
        "not allowed to act as this principal",
    )
    assert error(app.post(JOBS, {"user_id": str(uuid.uuid4())})) == (
        403,
        "not allowed to act as this principal",
    )
    for malformed in ("ben", 7, "", [], "{" + app.user_id + "}"):
        assert error(app.post(JOBS, {"user_id": malformed})) == (400, "invalid user_id")
    assert len(app.get(JOBS).json) == 1


def test_payload_size(app):
    fits = "x" * (1024 * 1024 - 2)
    assert enqueue(app, payload=fits) > 0
    assert error(app.post(JOBS, {"payload": fits + "x"})) == (400, "payload exceeds 1 MiB")
    assert error(app.post(JOBS, {"payload": "é" * (512 * 1024)})) == (400, "payload exceeds 1 MiB")


def test_a_payload_postgres_cannot_store_is_refused(app):
    status, message = error(app.post(JOBS, {"payload": "a\0b"}))
    assert (status, message) == (400, "text must not contain the character U+0000")
    assert app.get(JOBS).json == []


def test_unknown_apps(app):
    for app_id in ("nothere", "core", "pgmq", "cron", "Bad-Id"):
        assert error(app.post(f"/apps/{app_id}/jobs", {})) == (404, f"no app '{app_id}'")
        assert error(app.get(f"/apps/{app_id}/jobs")) == (404, f"no app '{app_id}'")
    for schema in ("trellis", "information_schema", "pg_x"):
        assert error(app.post(f"/apps/{schema}/jobs", {})) == (
            403,
            f"schema '{schema}' is off limits",
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"delay": -1}, "field 'delay' must be 0 to 86400"),
        ({"delay": 86401}, "field 'delay' must be 0 to 86400"),
        ({"delay": "5"}, "field 'delay' must be an integer"),
        ({"delay": 1.5}, "field 'delay' must be an integer"),
        ({"delay": True}, "field 'delay' must be an integer"),
        ({"priority": 11}, "field 'priority' must be -10 to 10"),
        ({"maxAttempts": 0}, "field 'maxAttempts' must be 1 to 20"),
        ({"maxAttempts": 21}, "field 'maxAttempts' must be 1 to 20"),
        ({"idempotencyKey": ""}, "field 'idempotencyKey' must be 1 to 200 characters"),
        ({"idempotencyKey": "k" * 201}, "field 'idempotencyKey' must be 1 to 200 characters"),
        ({"idempotencyKey": 5}, "field 'idempotencyKey' must be a string"),
    ],
)
def test_field_rules(app, body, message):
    assert error(app.post(JOBS, body)) == (400, message)
    assert app.get(JOBS).json == []


def test_limit_rules(app):
    ids = app.post(f"{JOBS}/batch", {"jobs": [{}] * 150}).json["msg_ids"]
    assert len(app.get(JOBS).json) == 100
    assert [j["msg_id"] for j in app.get(f"{JOBS}?limit=2").json] == ids[:-3:-1]
    assert len(app.get(f"{JOBS}?limit=5000").json) == 150
    for limit in ("0", "-1", "ten", "", "1.5", "+1", "1e3"):
        assert error(app.get(f"{JOBS}?limit={limit.replace('+', '%2B')}")) == (400, "invalid limit")


def test_archived_means_exactly_true(app, platform):
    done, waiting = enqueue(app, payload={"n": 1}), enqueue(app)
    enqueued_at = app.get(f"{JOBS}/{done}").json["enqueued_at"]
    with platform.uow() as uow:
        from app.jobs import service

        service.complete(uow, done)
    (archived,) = app.get(f"{JOBS}?archived=true").json
    assert archived.pop("archived_at").endswith("Z")
    assert archived == {
        "msg_id": done,
        "app_id": "crm",
        "payload": {"n": 1},
        "user_id": app.user_id,
        "read_ct": 0,
        "enqueued_at": enqueued_at,
    }
    for other in ("True", "1", "false", "yes"):
        assert [j["msg_id"] for j in app.get(f"{JOBS}?archived={other}").json] == [waiting]


def test_an_idempotency_key_enqueues_once_a_day(app, platform):
    first = app.post(JOBS, {"idempotencyKey": "k", "payload": 1})
    again = app.post(JOBS, {"idempotencyKey": "k", "payload": 2})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json
    assert [j["payload"] for j in app.get(JOBS).json] == [1]
    run_sql(platform, "UPDATE trellis.job_keys SET created_at = now() - interval '25 h'")
    later = app.post(JOBS, {"idempotencyKey": "k", "payload": 3})
    assert later.status_code == 201
    assert app.post(JOBS, {"idempotencyKey": "k"}).json == later.json
    assert len(app.get(JOBS).json) == 2


def test_a_batch_is_all_or_nothing(app):
    ids = app.post(f"{JOBS}/batch", {"jobs": [{"payload": n} for n in range(5)]}).json["msg_ids"]
    assert ids == sorted(ids)
    assert [j["payload"] for j in app.get(JOBS).json] == [4, 3, 2, 1, 0]
    assert error(app.post(f"{JOBS}/batch", {"jobs": [{}, {"delay": -1}]})) == (
        400,
        "field 'delay' must be 0 to 86400",
    )
    assert error(app.post(f"{JOBS}/batch", {"jobs": []})) == (
        400,
        "field 'jobs' must have 1 to 1000 elements",
    )
    assert error(app.post(f"{JOBS}/batch", {"jobs": [{}] * 1001})) == (
        400,
        "field 'jobs' must have 1 to 1000 elements",
    )
    assert error(app.post(f"{JOBS}/batch", {})) == (400, "field 'jobs' is required")
    assert error(app.post(f"{JOBS}/batch", {"jobs": [3]}))[0] == 400
    assert len(app.get(JOBS).json) == 5


def test_a_batch_honours_idempotency_keys(app):
    body = {"jobs": [{"idempotencyKey": "a"}, {"idempotencyKey": "a"}, {}]}
    a, again, b = app.post(f"{JOBS}/batch", body).json["msg_ids"]
    assert a == again != b


def test_states_and_one_job(app, platform):
    from app.jobs.repository import QUEUE
    from app.pgqueue.types import Failure

    failed, running, waiting = (enqueue(app, payload=n) for n in range(3))
    with platform.uow() as uow:
        lane = {"app_id": "crm", "route": "worker"}
        deliveries = QUEUE.claim(uow.session, lane, quantity=2, vt_s=60)
        QUEUE.dead_letter(
            uow.session, [Failure(deliveries[0].receipt, "handler error: boo", "boo")]
        )
    shown = {
        s: [j["msg_id"] for j in app.get(f"{JOBS}?state={s}").json]
        for s in ("queued", "running", "archived", "failed")
    }
    assert shown == {"queued": [waiting], "running": [running], "archived": [], "failed": [failed]}
    (dead,) = app.get(f"{JOBS}?state=failed").json
    assert (dead["reason"], dead["read_ct"]) == ("handler error: boo", 1)
    assert dead["failed_at"].endswith("Z")
    one = app.get(f"{JOBS}/{running}").json
    assert (one["state"], one["read_ct"], one["attempts"], one["last_error"]) == (
        "running",
        1,
        0,
        None,
    )
    assert app.get(f"{JOBS}/{failed}").json["last_error"] == "boo"
    assert [j["msg_id"] for j in app.get(f"{JOBS}?before={waiting}").json] == [running]
    assert error(app.get(f"{JOBS}?state=sleeping")) == (
        400,
        "state must be 'queued', 'running', 'archived' or 'failed'",
    )
    assert error(app.get(f"{JOBS}/{waiting + 999}")) == (404, f"no job {waiting + 999}")
    assert error(app.get(f"{JOBS}/x1")) == (400, "not a valid job id: 'x1'")


def test_cancel_and_retry(app):
    msg_id = enqueue(app, payload={"n": 1})
    assert app.delete(f"{JOBS}/{msg_id}").json == {"message": f"job {msg_id} cancelled"}
    (dead,) = app.get(f"{JOBS}?state=failed").json
    assert dead["reason"] == "cancelled"
    assert app.get(JOBS).json == []
    assert error(app.delete(f"{JOBS}/{msg_id}")) == (409, f"job {msg_id} has ended")
    assert app.post(f"{JOBS}/{msg_id}/retry").json == {"msg_id": msg_id}
    assert error(app.post(f"{JOBS}/{msg_id}/retry")) == (409, f"job {msg_id} has not failed")
    (back,) = app.get(JOBS).json
    assert (back["msg_id"], back["read_ct"], back["payload"]) == (msg_id, 0, {"n": 1})
    other = enqueue(app)
    for each in (msg_id, other):
        app.delete(f"{JOBS}/{each}")
    assert app.post(f"{JOBS}/retry").json == {"msg_ids": [msg_id, other]}
    assert error(app.post(f"{JOBS}/{other + 99}/retry")) == (404, f"no job {other + 99}")


def test_jobs_of_another_app_are_out_of_reach(app):
    app.post("/apps", {"appId": "hr", "name": "HR"})
    msg_id = enqueue(app)
    for answer in (
        app.get(f"/apps/hr/jobs/{msg_id}"),
        app.delete(f"/apps/hr/jobs/{msg_id}"),
        app.post(f"/apps/hr/jobs/{msg_id}/retry"),
    ):
        assert error(answer) == (404, f"no job {msg_id}")
    assert app.get("/apps/hr/jobs").json == []


def test_uninstalling_deletes_every_job(app, platform):
    enqueue(app, idempotencyKey="k")
    done = enqueue(app)
    app.delete(f"{JOBS}/{enqueue(app)}")
    with platform.uow() as uow:
        from app.jobs import service

        service.complete(uow, done)
    assert app.delete("/apps/crm").status_code == 200
    for table in ("jobs_queue", "jobs_archive", "jobs_dead", "job_keys"):
        assert run_sql(platform, f"SELECT count(*) FROM trellis.{table}") == [(0,)]


def test_bodies(app):
    assert app.post(JOBS, {"unknown": 1, "delay": None}).status_code == 201
    assert error(app.post(JOBS, data="[]")) == (400, "request body must be a JSON object")
    assert error(app.post(JOBS, data=json.dumps({"payload": float("nan")})))[0] == 400
