"""Webhooks: made by manifests, let in by token and signature, written down before anything else.

What a handler answers is tested on real processes: ``tests/acceptance/test_webhooks.py``.
"""

import hashlib
import hmac
import json
import time

import pytest
from sqlalchemy import text

from app.core.clock import utc_now
from app.hooks import webhooks
from app.http.views import PLATFORM
from tests.fakes.model_server import model_server
from tests.support.agents import install_agent, register_model
from tests.support.api import error

LIST = "/apps/shop/webhooks"


def manifest(*entries, **more):
    return {"appId": "shop", "name": "Shop", "webhooks": list(entries), **more}


def install(client, *entries):
    answer = client.post("/apps", manifest(*entries))
    assert answer.status_code == 200, answer.json
    return {webhook["name"]: webhook for webhook in client.get(LIST).json}


def send(client, webhook, body=b"{}", **headers):
    path = webhook["url"].removeprefix("/api/v1")
    return client.http.open(f"/api/v1{path}", method="POST", data=body, headers=headers)


def signed(webhook, body, *, age=0, secret=None, prefix="sha256="):
    stamp = str(int(time.time()) - age)
    key = (secret or webhook["signingSecret"]).encode()
    digest = hmac.new(key, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Webhook-Timestamp": stamp, "X-Webhook-Signature": prefix + digest}


@pytest.fixture
def admin(shared_admin):
    """The administrator of a platform all tests here share; the app is gone before each."""
    shared_admin.delete("/apps/shop")
    return shared_admin


@pytest.fixture
def platform(admin):
    return admin.http.application.extensions[PLATFORM]


@pytest.fixture
def rows(platform):
    def read(query):
        with platform.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

    return read


def deliveries(client, webhook):
    return client.get(f"{LIST}/{webhook['id']}/deliveries").json


def test_webhooks_follow_the_manifest(admin, rows):
    first = install(admin, "b_paid", {"name": "asked", "method": "agent"}, {"name": "gone"})
    assert list(first) == ["asked", "b_paid", "gone"]
    paid = first["b_paid"]
    assert paid == {
        "id": paid["id"],
        "name": "b_paid",
        "method": "POST",
        "token": paid["token"],
        "url": f"/api/v1/hooks/{paid['token']}",
        "signingSecret": paid["signingSecret"],
        "createdAt": paid["createdAt"],
    }
    assert (len(bytes.fromhex(paid["token"])), len(paid["signingSecret"])) == (32, 43)
    second = install(admin, {"name": "b_paid", "method": "paid"}, "asked", "new")
    assert second["b_paid"] == {**paid, "method": "paid"}
    assert second["asked"] == {**first["asked"], "method": "POST"}
    assert list(second) == ["asked", "b_paid", "new"]
    assert error(send(admin, first["gone"])) == (404, "unknown webhook")
    kept = rows("SELECT * FROM trellis.secrets WHERE scope LIKE 'webhook:%'")
    assert len(kept) == 6
    assert not [row for row in kept if paid["token"].encode() in row["ciphertext"]]
    query = "SELECT trigger_id, revoked_at FROM trellis.agent_delegations"
    found = {row["trigger_id"]: row["revoked_at"] for row in rows(query)}
    assert found[first["asked"]["id"]] is not None

    admin.delete("/apps/shop")
    assert rows("SELECT 1 FROM trellis.secrets WHERE scope LIKE 'webhook:%'") == []
    assert error(send(admin, second["new"])) == (404, "unknown webhook")
    assert admin.get(LIST).json == []


def test_bad_entries(admin):
    for entry, words in (
        ({"name": ""}, "manifest: 'webhooks[0].name' is required"),
        (5, "manifest: 'webhooks[0]' must be a string or an object"),
        ({"name": "a", "method": 5}, "manifest: 'webhooks[0].method' must be a string"),
        ({"name": "a", "durable": 1}, "manifest: 'webhooks[0].durable' must be a boolean"),
        ({"name": "a", "method": "__bind"}, "webhook 'a': method '__bind' is reserved"),
    ):
        assert error(admin.post("/apps", manifest(entry))) == (400, words)
    assert error(admin.post("/apps", manifest("a", "a"))) == (400, "duplicate webhook 'a'")


def test_who_sees_tokens(admin):
    install(admin, "paid")
    user = admin.sign_up("user@example.com")
    assert error(user.get(LIST)) == (403, "missing permission: app:shop:webhook.read")
    assert admin.get("/apps/nope/webhooks").json == []
    assert error(admin.get("/apps/pg_x/webhooks")) == (403, "schema 'pg_x' is off limits")


def test_signature_and_replay_window(admin):
    paid = install(admin, "paid")["paid"]
    body = b'{"n": 1}'
    rejected = (403, "webhook signature rejected")
    late = (403, "webhook timestamp rejected")
    good = signed(paid, body)
    # Without a node a call that was let in ends with 503.
    for headers in (
        good,
        signed(paid, body, prefix=""),
        signed(paid, body, age=240),
        {},
        {"X-Webhook-Timestamp": "junk"},
        {"X-Webhook-Signature": "junk"},
    ):
        assert send(admin, paid, body, **headers).status_code == 503, headers
    assert len(deliveries(admin, paid)) == 6
    assert error(send(admin, paid, b'{"n": 2}', **good)) == rejected
    assert error(send(admin, paid, body, **signed(paid, body, secret="x"))) == rejected
    assert error(send(admin, paid, body, **{**good, "X-Webhook-Signature": "ä"})) == rejected
    assert error(send(admin, paid, body, **signed(paid, body, age=302))) == late
    assert error(send(admin, paid, body, **signed(paid, body, age=-60))) == late
    for stamp in ("", "x", "1e9", "²", "9" * 30):
        headers = {**good, "X-Webhook-Timestamp": stamp}
        assert error(send(admin, paid, body, **headers)) == late, stamp
    assert len(deliveries(admin, paid)) == 6


def test_limits_and_unknown_tokens(admin):
    paid = install(admin, "paid")["paid"]
    big = b"x" * (5 * 1024 * 1024 + 1)
    assert error(send(admin, paid, big)) == (413, "request body too large")
    # Within the limit of the body, but not within that of a line to the app's process.
    assert error(send(admin, paid, big[:-1])) == (413, "request body too large")
    assert error(send(admin, {"url": "/api/v1/hooks/nope"})) == (404, "unknown webhook")
    assert [d["status"] for d in deliveries(admin, paid)] == ["failed"]


def test_a_call_is_written_down_before_redis_is_asked(admin):
    paid = install(admin, "paid")["paid"]
    raw = b"\xff\x00 not json"
    answer = send(admin, paid, raw, Authorization="Basic x", Cookie="a=b", **{"X-Event": "Paid"})
    assert error(answer) == (503, "worker for app 'shop' is not running")
    (listed,) = deliveries(admin, paid)
    expected = {"status": "failed", "error": "worker for app 'shop' is not running"}
    assert expected.items() <= listed.items()
    assert listed["finishedAt"] >= listed["receivedAt"]
    path = f"{LIST}/{paid['id']}/deliveries"
    shown = admin.get(f"{path}/{listed['id']}").json
    assert shown["headers"]["x-event"] == "Paid"
    assert not {"authorization", "cookie"} & set(shown["headers"])
    assert shown["rawBody"] == "/wAgbm90IGpzb24="
    again = admin.post(f"{path}/{listed['id']}/redeliver").json
    assert (again["status"], again["redeliveryOf"]) == ("failed", listed["id"])
    assert [d["id"] for d in deliveries(admin, paid)] == [again["id"], listed["id"]]
    assert error(admin.get(f"{path}/99")) == (404, "no delivery 99")
    assert error(admin.post(f"{path}/x/redeliver")) == (404, "no delivery x")
    assert error(admin.get(f"{LIST}/x/deliveries")) == (400, "not a valid UUID: 'x'")
    missing = f"{LIST}/{paid['id'][:-4]}0000/deliveries"
    assert error(admin.get(missing))[1].startswith("no webhook ")


def test_a_durable_webhook_is_a_job(admin, rows):
    paid = install(admin, {"name": "paid", "method": "paid", "durable": True})["paid"]
    answer = send(admin, paid, b'{"n": 1}')
    assert answer.status_code == 200
    (job,) = rows("SELECT * FROM trellis.jobs_queue")
    assert answer.json == {"status": "accepted", "msg_id": job["msg_id"]}
    assert str(job["user_id"]) == admin.user_id
    payload = job["payload"]
    assert (payload["_webhook"], payload["method"], payload["body"]) == (True, "paid", {"n": 1})
    (listed,) = deliveries(admin, paid)
    assert (listed["status"], listed["msgId"]) == ("accepted", job["msg_id"])
    assert send(admin, paid, b"\0\xff").status_code == 200
    assert (
        rows("SELECT payload FROM trellis.jobs_queue ORDER BY msg_id DESC")[0]["payload"]["rawBody"]
        == "AP8="
    )
    assert error(send(admin, paid, b"x" * 900_000)) == (400, "payload exceeds 1 MiB")


def test_without_an_owner_nothing_is_called(admin, platform):
    admin.post("/roles", {"name": "maker", "permissions": ["platform:apps.create"]})
    maker = admin.sign_up("maker@example.com")
    admin.post("/roles/assign", {"userId": maker.user_id, "role": "maker"})
    entries = ("now", {"name": "later", "durable": True})
    found = install(maker, *entries)
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE id = :id"),
            {"id": maker.user_id},
        )
    disabled = (403, "webhook refused: owner disabled")
    assert [error(send(admin, webhook)) for webhook in found.values()] == [disabled] * 2
    assert admin.delete(f"/users/{maker.user_id}").status_code == 200
    assert error(send(admin, found["now"])) == (403, "webhook refused: no owner")
    assert {d["status"] for d in deliveries(admin, found["now"])} == {"refused"}
    # Whoever installs the app next takes them over.
    assert install(admin, *entries)["later"]["token"] == found["later"]["token"]
    assert send(admin, found["later"]).status_code == 200


def test_an_agent_webhook_starts_a_run_in_its_owners_name(admin, platform, rows):
    entry = {"name": "asked", "method": "agent"}
    asked = install(admin, entry)["asked"]
    assert error(send(admin, asked)) == (403, "webhook refused: app has no agent")
    install_agent(platform, admin, manifest(entry))
    assert error(send(admin, asked)) == (503, "no language model is configured")
    with model_server() as server:
        register_model(admin, server)
        answer = send(admin, asked, '{"n": "ä"}'.encode())
        assert (answer.status_code, answer.json) == (200, {"status": "accepted"})
    (run,) = rows("SELECT * FROM trellis.agent_runs")
    assert (run["source"], str(run["invoker_id"])) == ("webhook", admin.user_id)
    assert run["config"]["message"] == 'Webhook received: asked\n\n{"n": "ä"}'
    assert run["config"]["autonomous"] is True
    assert deliveries(admin, asked)[0]["runId"] == str(run["id"])
    with platform.engine.begin() as connection:
        connection.execute(text("UPDATE trellis.agent_delegations SET revoked_at = now()"))
        connection.execute(text("DELETE FROM trellis.llm_models"))
    assert error(send(admin, asked)) == (403, "webhook refused: no valid delegation")


def test_the_log_is_bounded(admin, platform, monkeypatch):
    monkeypatch.setattr("app.hooks.webhook_rows.KEPT_DELIVERIES", 3)
    paid = install(admin, {"name": "paid", "durable": True})["paid"]
    for n in range(5):
        assert send(admin, paid, json.dumps(n).encode()).status_code == 200
    first, *_, last = [d["id"] for d in deliveries(admin, paid)]
    assert first - last == 2
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.webhook_deliveries SET received_at = :t WHERE id < :id"),
            {"t": utc_now().replace(year=2020), "id": first},
        )
    with platform.uow() as uow:
        assert webhooks.prune(uow, platform.settings.jobs) == 2
        assert webhooks.prune(uow, platform.settings.jobs) == 0
    assert [d["id"] for d in deliveries(admin, paid)] == [first]
