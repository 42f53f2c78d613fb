"""Enqueueing with remembered rights: quick when they hold, and exact when they do not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.support.api import error
from tests.support.sql import spoken

JOBS = "/apps/crm/jobs"
DENIED = (403, "missing permission: app:crm:invoke")


@pytest.fixture
def ben(admin, client):
    """Somebody who may invoke the app; this process remembers it."""
    admin.post("/apps", {"appId": "crm", "name": "CRM"})
    admin.post("/roles", {"name": "invoker", "permissions": ["app:crm:invoke"]})
    ben = client.sign_up("ben@example.com")
    admin.post("/roles/assign", {"userId": ben.user_id, "role": "invoker"})
    assert ben.post(JOBS, {}).status_code == 201
    return ben


@pytest.fixture
def statements(platform):
    with spoken(platform.engine) as sent:
        yield sent


def run(platform, statement, **values):
    with platform.uow() as uow:
        result = uow.session.execute(text(statement), values)
        return result.all() if result.returns_rows else None


def test_one_statement_and_a_turn(ben, platform, statements):
    platform.redis.flushdb()
    body = {"payload": {"n": 1}, "priority": 3, "maxAttempts": 4, "user_id": ben.user_id}
    msg_id = ben.post(JOBS, body).json["msg_id"]
    assert len(statements) == 1
    assert platform.redis.llen("jobs") == 1
    (row,) = run(
        platform,
        "SELECT app_id, route, user_id::text, source, payload, priority, max_attempts, attempts,"
        " read_ct, fresh, vt <= clock_timestamp() FROM trellis.jobs_queue WHERE msg_id = :id",
        id=msg_id,
    )
    assert tuple(row) == (
        "crm", "worker", ben.user_id, "api", {"n": 1}, 3, 4, 0, 0, True, True
    )  # fmt: skip


def test_a_change_of_rights_acts_on_the_very_next_request(admin, ben, platform):
    def may():
        answer = ben.post(JOBS, {})
        return True if answer.status_code == 201 else error(answer)

    for _ in range(3):
        run(platform, "DELETE FROM trellis.rbac_assignments WHERE role = 'invoker'")
        assert may() == DENIED
        assert error(ben.post(JOBS, data=b"no json")) == DENIED
        admin.post("/roles/assign", {"userId": ben.user_id, "role": "invoker"})
        assert may() is True
        admin.patch("/roles/invoker", {"permissions": ["app:other:invoke"]})
        assert may() == DENIED
        admin.patch("/roles/invoker", {"permissions": ["app:crm:*"]})
        assert may() is True
    run(platform, "UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'ben@%'")
    assert may() == (401, "invalid or expired token")
    assert error(ben.post(JOBS, {"delay": "x"})) == (401, "invalid or expired token")
    run(platform, "UPDATE trellis.users SET disabled_at = NULL")
    assert may() is True
    admin.delete("/apps/crm")
    assert error(ben.post(JOBS, {})) == (404, "no app 'crm'")


def test_errors_and_special_jobs_are_those_of_the_usual_way(ben):
    for body, wanted in (
        ("[", "request body is not valid JSON"),
        ("[]", "request body must be a JSON object"),
        ({"delay": -1}, "field 'delay' must be 0 to 86400"),
        ({"user_id": "x"}, "invalid user_id"),
        ({"payload": {"x": "a\0b"}}, "text must not contain the character U+0000"),
    ):
        sent = {"data": body} if isinstance(body, str) else {"json": body}
        assert error(ben.post(JOBS, **sent)) == (400, wanted)
    assert error(ben.post("/apps/nope/jobs", {}))[0] == 403
    assert error(ben.post(JOBS, {"user_id": "00000000-0000-0000-0000-000000000001"}))[0] == 403
    assert ben.post(JOBS, {"delay": 60}).status_code == 201
    assert ben.post(JOBS, {"payload": "x" * 100_000}).status_code == 201
    first = ben.post(JOBS, {"idempotencyKey": "k"})
    again = ben.post(JOBS, {"idempotencyKey": "k"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json == again.json


def test_many_at_once_each_with_its_own_id_and_error(ben, statements):
    bodies = [{"payload": n} for n in range(60)]
    bodies[17] = {"payload": "\0"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ben.post(JOBS, body), bodies))
    assert answers.pop(17).status_code == 400
    assert {answer.status_code for answer in answers} == {201}
    stored = {job["msg_id"]: job["payload"] for job in ben.get(JOBS).json}
    bodies.pop(17)
    assert [stored[answer.json["msg_id"]] for answer in answers] == [b["payload"] for b in bodies]
    assert len(stored) == 60


def test_nothing_is_written_twice_when_the_connection_breaks(ben, platform, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from app.jobs import repository

    def written_but_not_told(session, messages, stamps):
        send(session, messages, stamps)
        raise OperationalError(
            "INSERT", {}, Exception("connection lost"), connection_invalidated=True
        )

    before = run(platform, "SELECT count(*) FROM trellis.jobs_queue")[0][0]
    send = repository.send_if_unchanged
    monkeypatch.setattr(repository, "send_if_unchanged", written_but_not_told)
    assert error(ben.post(JOBS, {})) == (503, "database not available")
    assert run(platform, "SELECT count(*) FROM trellis.jobs_queue")[0][0] == before + 1
