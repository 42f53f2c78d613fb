"""SQL of app code through the whole chain: identities, transactions, limits."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.stack import wait_until

WORKER = """
import threading, time
from trellis_worker import serve

def sql(params, caller, ctx):
    answer = ctx.sql(params["sql"], params.get("params", []))
    return {"columns": answer.columns, "rows": answer.rows, "count": answer.row_count}
def move(params, caller, ctx):
    with ctx.transaction() as tx:
        tx.sql("INSERT INTO notes (text) VALUES ($1)", [params])
        if params == "boom":
            raise ValueError("boom")
        return tx.sql("SELECT count(*) FROM notes").rows[0][0]
def two(params, caller, ctx):
    with ctx.transaction():
        with ctx.transaction():
            pass
def abandoned(params, caller, ctx):
    ctx.transaction().__enter__().sql("INSERT INTO notes (text) VALUES ('lost')")
    return "returned"
def flood(params, caller, ctx):
    for _ in range(params):
        ctx.sql("SELECT 1")
def both(params, caller, ctx):
    time.sleep(0.3)
    return [caller.user_id, ctx.sql("SELECT current_setting('trellis.user_id')").rows[0][0]]
serve(rpc={n: f for n, f in list(globals().items()) if callable(f) and n != "serve"})
"""
CONTRACT = [{"entityName": "notes", "fields": [{"name": "text", "type": "text"}]}]


@pytest.fixture(scope="module")
def platform(start_platform_session):
    return start_platform_session("web", "worker")


@pytest.fixture
def app(platform, request):
    name = "q_" + request.node.name.removeprefix("test_")[:40]
    platform.install(name, WORKER, dataContract=CONTRACT)
    return name


def call(platform, app, method, params=None):
    answer = platform.rpc(app, method, params)
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


def count(platform, app):
    return call(platform, app, "sql", {"sql": "SELECT count(*) FROM notes"})["rows"][0][0]


def test_statements(platform, app):
    insert = {"sql": "INSERT INTO notes (text) VALUES ($1) RETURNING text", "params": ["a"]}
    answer = {"columns": ["text"], "rows": [["a"]], "count": 1}
    assert call(platform, app, "sql", insert) == answer
    refused = call(platform, app, "sql", {"sql": "drop table notes"})
    assert refused == "statement not allowed: DROP"


def test_transactions(platform, app):
    assert call(platform, app, "move", "one") == 1
    assert call(platform, app, "move", "boom") == "boom"
    assert count(platform, app) == 1
    assert call(platform, app, "two") == "a transaction is already open"


def test_a_transaction_ends_with_its_call(platform, app):
    assert call(platform, app, "abandoned") == "returned"
    wait_until(lambda: count(platform, app) == 0, timeout=5, what="the rollback")
    assert [call(platform, app, "move", str(n)) for n in range(10)] == list(range(1, 11))


def test_the_rate_limit(platform, app):
    assert call(platform, app, "flood", 2000) == "rate limited: 100 statements per second"
    time.sleep(1.1)
    assert count(platform, app) == 0


def test_callers_at_the_same_time_keep_apart(platform, app):
    admin = platform.admin
    role = {"name": f"caller_{app}", "permissions": [f"app:{app}:*"]}
    assert admin.post("/roles", json=role).status_code in {200, 201}
    user = platform.stack.sign_up(f"{app}@example.com")
    body = {"userId": user.get("/auth/me").json()["id"], "role": role["name"]}
    assert admin.post("/roles/assign", json=body).status_code == 200
    path, call_ = f"/apps/{app}/rpc", {"method": "both"}
    with ThreadPoolExecutor(8) as pool:
        clients = [admin, user] * 4
        responses = list(pool.map(lambda c: c.post(path, json=call_), clients))
    assert [r.text for r in responses if r.status_code != 200] == []
    answers = [r.json() for r in responses]
    assert all(told == seen for told, seen in answers)
    assert len({told for told, _ in answers}) == 2
