"""Webhooks and files on real processes.

The handler's answer, its failures, durable calls, redelivery; a file that a worker stores.
"""

from __future__ import annotations

import httpx
import pytest

from tests.acceptance.conftest import Platform
from tests.support.stack import wait_until

WORKER = """
from trellis_worker import App, WorkerError

app = App()


@app.rpc
def paid(params, caller, ctx):
    if params["body"] == "refuse":
        raise WorkerError("not today")
    ctx.collection("calls").insert({"body": params["rawBody"]})
    return {"name": params["name"], "body": params["body"], "by": caller.email,
            "kind": params["headers"]["x-kind"]}


@app.rpc
def report(params, caller, ctx):
    return ctx.upload_file(b"a,b\\n" * 100_000, "r.csv", "text/csv")


@app.on_job
def work(payload, caller, ctx):
    ctx.collection("calls").insert({"body": payload["rawBody"], "by": caller.email})


app.serve()
"""


@pytest.fixture(scope="module")
def hooks(shared_platform: Platform) -> dict[str, dict[str, str]]:
    shared_platform.install(
        "till",
        WORKER,
        dataContract=[
            {
                "entityName": "calls",
                "fields": [{"name": "body", "type": "text"}, {"name": "by", "type": "text"}],
            }
        ],
        webhooks=[
            {"name": "paid", "method": "paid"},
            {"name": "later", "durable": True},
            "missing",
        ],
    )
    return {hook["name"]: hook for hook in shared_platform.admin.get("/apps/till/webhooks").json()}


def call(platform: Platform, hook: dict[str, str], body: bytes) -> httpx.Response:
    return httpx.post(platform.stack.url + hook["url"], content=body, headers={"X-Kind": "a"})


def test_a_call_is_answered_by_the_handler(
    shared_platform: Platform, hooks: dict[str, dict[str, str]]
) -> None:
    answer = call(shared_platform, hooks["paid"], b'{"n": 1}')
    assert (answer.status_code, answer.json()) == (
        200,
        {"name": "paid", "body": {"n": 1}, "by": "admin@example.com", "kind": "a"},
    )
    failed = call(shared_platform, hooks["paid"], b"refuse")
    assert (failed.status_code, failed.json()) == (500, {"error": "not today"})
    unknown = call(shared_platform, hooks["missing"], b"")
    assert unknown.json() == {"error": "unknown method: POST"}
    path = f"/apps/till/webhooks/{hooks['paid']['id']}/deliveries"
    last, first = shared_platform.admin.get(path).json()
    assert [(d["status"], d["error"]) for d in (first, last)] == [
        ("succeeded", None),
        ("failed", "not today"),
    ]
    again = shared_platform.admin.post(f"{path}/{first['id']}/redeliver").json()
    assert (again["status"], again["redeliveryOf"]) == ("succeeded", first["id"])
    stored = shared_platform.admin.get("/apps/till/collections/calls?body=eyJuIjogMX0=").json()
    assert len(stored) == 2


def test_a_durable_call_reaches_the_job_handler(
    shared_platform: Platform, hooks: dict[str, dict[str, str]]
) -> None:
    answer = call(shared_platform, hooks["later"], b"later")
    assert answer.json()["status"] == "accepted"
    shared_platform.wait_archived("till", {answer.json()["msg_id"]})
    wait_until(
        lambda: shared_platform.admin.get(
            "/apps/till/collections/calls?by=admin@example.com"
        ).json(),
        what="the job's record",
    )


def test_a_worker_stores_a_file(
    shared_platform: Platform, hooks: dict[str, dict[str, str]]
) -> None:
    file_id = shared_platform.rpc("till", "report").json()
    answer = shared_platform.admin.get(f"/apps/till/storage/{file_id}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv")
    assert answer.content == b"a,b\n" * 100_000
    assert answer.headers["content-disposition"] == 'attachment; filename="r.csv"'
    assert shared_platform.admin.delete(f"/apps/till/storage/{file_id}").status_code == 200


INTEGRATION = """
from trellis_worker import serve


def webhook(params, caller, ctx):
    if params["body"] == "refuse":
        raise ValueError("internal detail")
    return [params["event"], params["body"], params["config"], caller.email]


serve(rpc={"__webhook": webhook})
"""


def test_an_integration_gets_its_events(shared_platform: Platform) -> None:
    shared_platform.install("till_link", INTEGRATION, type="integration", webhooks=["sold"])
    (hook,) = shared_platform.admin.get("/apps/till_link/webhooks").json()
    answer = call(shared_platform, hook, b'{"n": 1}')
    assert answer.json() == ["sold", {"n": 1}, {}, "admin@example.com"]
    failed = call(shared_platform, hook, b"refuse")
    assert (failed.status_code, failed.json()) == (500, {"error": "webhook handler failed"})


def test_an_integration_of_the_catalog_has_an_address_of_its_own(
    shared_platform: Platform,
) -> None:
    tokens = {
        shared_platform.admin.post("/integrations/catalog/notion/deploy").json()["webhookToken"]
        for _ in range(2)
    }
    (token,) = tokens
    sent = {"type": "page_created", "page": 7}
    answer = httpx.post(f"{shared_platform.stack.url}/api/v1/hooks/{token}", json=sent)
    assert (answer.status_code, answer.json()) == (200, {"event": "page_created", "data": sent})
    log = "/apps/notion/webhooks/own/deliveries"
    delivery = shared_platform.admin.get(log).json()[0]
    assert delivery["status"] == "succeeded"
    again = shared_platform.admin.post(f"{log}/{delivery['id']}/redeliver").json()
    assert (again["status"], again["redeliveryOf"]) == ("succeeded", delivery["id"])
    named = {hook["name"] for hook in shared_platform.admin.get("/apps/notion/webhooks").json()}
    assert len(named) == 4
    assert "" not in named
