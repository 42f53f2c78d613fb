"""Supervision and approvals (contract part 40, 1.11, 1.12; checks 4 and 5)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import text

from app.agents import sweeper
from app.core.platform import Platform
from tests.fakes.model_server import Call, ModelServer
from tests.support.agents import (
    MANIFEST,
    ask,
    ask_aside,
    install_agent,
    state_of,
    wait_for_state,
    working,
)
from tests.support.api import ApiClient, error

MUTATE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}})
SUPERVISED = {
    "mode": "supervised",
    "policies": [{"action": "mutate", "entity": "notes", "requires": "approval"}],
}


def notes(admin: ApiClient) -> list[dict[str, Any]]:
    return admin.get("/apps/stock/collections/notes").json


def pending(client: ApiClient) -> list[dict[str, Any]]:
    return client.get("/apps/stock/agent/approvals").json


def decide(client: ApiClient, approval_id: str, action: str, **body: Any) -> Any:
    path = f"/apps/stock/agent/approvals/{approval_id}"
    return client.post(path, {"action": action, **body})


@pytest.fixture
def supervised(platform: Platform, admin: ApiClient) -> None:
    install_agent(platform, admin, supervision=SUPERVISED)


@pytest.mark.usefixtures("supervised")
def test_approval_parks_and_resumes_on_another_worker(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.call(MUTATE, Call("query_data", {"entity": "notes", "limit": 1}), text=["Writing."])
    with working(platform, name="first"):
        aside = ask_aside(admin, "write")
        asked = aside.wait_for("approval_required")
        wait_for_state(platform, aside.run_id, "waiting_approval")
    assert asked["tool_name"] == "mutate_data"
    assert asked["args"] == MUTATE.arguments
    assert asked["reason"] == "policy: mutate on notes needs approval"
    assert asked["app_id"] == "stock"
    assert notes(admin) == []
    # The later call of the same turn was not held up.
    assert [e["tool_name"] for e in _completed(aside)] == ["query_data"]
    row = pending(admin)[0]
    assert row["approvalId"] == asked["approval_id"]
    assert (row["appId"], row["sessionId"], row["invokeId"]) == (
        "stock",
        aside.session_id,
        aside.run_id,
    )
    assert row["invokerId"] == admin.user_id
    assert admin.get(f"/apps/stock/agent/sessions/{aside.session_id}").json["status"] == (
        "waiting_approval"
    )
    assert error(
        admin.post("/apps/stock/agent/invoke", {"message": "x", "session_id": aside.session_id})
    ) == (409, "session has an active run")

    model.say("Written.")
    assert decide(admin, row["approvalId"], "approve").json == {"status": "ok"}
    assert error(decide(admin, row["approvalId"], "approve")) == (
        409,
        "approval is already approved",
    )
    with working(platform, name="second"):
        talk = aside.finish()
    assert talk.last.data["response"] == "Writing.\n\nWritten."
    assert [e["tool_name"] for e in talk.of_kind("tool_call_completed")] == [
        "query_data",
        "mutate_data",
    ]
    assert [e.seq for e in talk.events] == list(range(1, len(talk.events) + 1))
    assert [n["body"] for n in notes(admin)] == ["x"]
    assert pending(admin) == []
    timeline = admin.get(f"/apps/stock/agent/sessions/{aside.session_id}/events").json
    approval = next(entry for entry in timeline if entry["type"] == "approval")
    assert (approval["status"], approval["decidedBy"]) == ("approved", admin.user_id)


def _completed(aside: Any) -> list[dict[str, Any]]:
    return [e.data for e in aside.events if e.kind == "tool_call_completed"]


@pytest.mark.usefixtures("supervised", "worker")
def test_rejection_goes_back_to_the_model(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.call(MUTATE)
    aside = ask_aside(admin, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    model.say("As you wish.")
    decide(admin, asked["approval_id"], "reject", reason="not today")
    talk = aside.finish()
    completed = talk.of_kind("tool_call_completed")[0]
    assert (completed["error"], completed["duration_ms"]) == ("rejected: not today", 0)
    assert talk.last.data["response"] == "As you wish."
    assert notes(admin) == []


@pytest.mark.usefixtures("supervised", "worker")
def test_expiry_is_a_rejection(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    model.call(MUTATE)
    aside = ask_aside(admin, "write")
    aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    with platform.engine.begin() as connection:
        connection.execute(text("UPDATE trellis.agent_approvals SET expires_at = now()"))
    model.say("Too late.")
    sweeper.sweep(platform)
    talk = aside.finish()
    assert talk.of_kind("tool_call_completed")[0]["error"] == "rejected: approval expired"
    assert notes(admin) == []


@pytest.mark.usefixtures("worker")
def test_strict_mode_asks_for_everything(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    install_agent(platform, admin, supervision={"mode": "strict"})
    model.call(Call("list_apps"), Call("query_data", {"entity": "ghosts"}))
    aside = ask_aside(admin, "look")
    asked = aside.wait_for("approval_required")
    assert asked["reason"] == "strict mode: every tool call needs approval"
    wait_for_state(platform, aside.run_id, "waiting_approval")
    # No question is asked about a call that could not run.
    assert len(pending(admin)) == 1
    assert _completed(aside)[0]["error"] == "missing permission: app:stock:ghosts.read"
    model.say("Done.")
    decide(admin, asked["approval_id"], "approve")
    assert aside.finish().last.kind == "done"


@pytest.mark.usefixtures("supervised", "worker")
def test_who_may_decide(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    peer = _user(admin, "peer@example.com", ["app:stock:invoke"])
    model.call(MUTATE)
    aside = ask_aside(admin, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    assert pending(peer) == []
    approval_id = asked["approval_id"]
    assert error(decide(peer, approval_id, "approve")) == (
        403,
        "you may not decide this approval",
    )
    assert error(decide(admin, approval_id, "maybe")) == (
        400,
        "action must be 'approve' or 'reject'",
    )
    missing = "00000000-0000-4000-8000-000000000000"
    assert error(decide(admin, missing, "approve")) == (404, "approval not found")
    manager = _user(admin, "boss@example.com", ["admin:agents.manage"])
    assert len(pending(manager)) == 1
    model.say("ok")
    assert decide(manager, approval_id, "reject").status_code == 200
    assert aside.finish().last.kind == "done"


def _user(admin: ApiClient, email: str, permissions: list[str]) -> ApiClient:
    user = admin.sign_up(email)
    role = email.split("@", maxsplit=1)[0]
    admin.post("/roles", {"name": role, "permissions": permissions})
    admin.post("/roles/assign", {"userId": user.user_id, "role": role})
    return user


@pytest.mark.usefixtures("supervised", "worker")
def test_the_approved_call_is_the_one_that_runs(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.call(MUTATE)
    aside = ask_aside(admin, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                """UPDATE trellis.agent_runs SET transcript =
                replace(transcript::text, '"x"', '"tampered"')::jsonb"""
            )
        )
    model.say("ok")
    decide(admin, asked["approval_id"], "approve")
    talk = aside.finish()
    assert talk.of_kind("tool_call_completed")[0]["error"] == (
        "rejected: the approved call was a different one"
    )
    assert notes(admin) == []


@pytest.mark.usefixtures("supervised", "worker")
def test_cancelling_closes_the_question(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.call(MUTATE)
    aside = ask_aside(admin, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    path = f"/apps/stock/agent/runs/{aside.run_id}/cancel"
    assert admin.post(path).json == {"status": "cancelling"}
    talk = aside.finish()
    assert talk.last.data["error"] == "run was cancelled"
    assert error(decide(admin, asked["approval_id"], "approve")) == (
        409,
        "approval is already cancelled",
    )
    assert error(admin.post(path)) == (409, "run already finished")


def test_rate_limits_span_sessions_and_workers(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    policy = {"action": "query", "entity": "notes", "rateLimit": {"max": 2, "window": "1h"}}
    install_agent(platform, admin, supervision={"mode": "autonomous", "policies": [policy]})
    query = Call("query_data", {"entity": "notes"})
    model.call(query)
    model.say("one")
    with working(platform, name="first"):
        assert ask(admin, "a").of_kind("tool_call_completed")[0]["error"] is None
    model.call(query, query, Call("query_data", {"entity": "moves"}))
    model.say("two")
    with working(platform, name="second"):
        completed = ask(admin, "b").of_kind("tool_call_completed")
    assert completed[0]["error"] is None
    message = completed[1]["error"]
    assert message.startswith("rate limited: retry after ")
    assert 3500 < int(message.split()[-1].rstrip("s")) <= 3600
    assert completed[1]["duration_ms"] == 0
    assert completed[2]["error"] is None


@pytest.mark.usefixtures("supervised", "worker")
def test_a_role_taken_away_while_waiting_shrinks_the_run(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    user = _user(admin, "ann@example.com", ["app:stock:invoke", "app:stock:notes.create"])
    model.call(MUTATE)
    aside = ask_aside(user, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    admin.patch("/roles/ann", {"permissions": ["app:stock:invoke"]})
    model.say("ok")
    decide(admin, asked["approval_id"], "approve")
    talk = aside.finish()
    assert talk.of_kind("tool_call_completed")[0]["error"] == (
        "missing permission: app:stock:notes.create"
    )
    assert notes(admin) == []


@pytest.mark.usefixtures("supervised", "worker")
def test_a_disabled_invoker_ends_the_run(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    user = _user(admin, "bob@example.com", ["app:stock:*"])
    model.call(MUTATE)
    aside = ask_aside(user, "write")
    asked = aside.wait_for("approval_required")
    wait_for_state(platform, aside.run_id, "waiting_approval")
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE email = 'bob@example.com'")
        )
    decide(admin, asked["approval_id"], "approve")
    assert aside.finish().last.data["error"] == "the invoking user is disabled"
    time.sleep(0)
    assert state_of(platform, aside.run_id) == "failed"


@pytest.mark.parametrize("parent_mode", ["autonomous", "strict"])
def test_a_sub_agent_that_waits_parks_its_parent(
    platform: Platform, admin: ApiClient, model: ModelServer, parent_mode: str
) -> None:
    install_agent(platform, admin, supervision={"mode": parent_mode})
    install_agent(
        platform,
        admin,
        {**MANIFEST, "appId": "helper", "name": "Helper"},
        supervision={"mode": "strict"},
    )
    for app_id in ("stock", "helper"):
        role = next(r for r in admin.get("/roles").json if r["name"] == f"app:{app_id}:agent")
        keys = [*role["permissions"], "app:helper:invoke", "app:helper:notes.create"]
        admin.patch(f"/roles/app:{app_id}:agent", {"permissions": keys})
    model.call(Call("invoke_agent", {"app_id": "helper", "message": "write"}))
    model.call(MUTATE, text=["Sub."])
    with working(platform, name="first"):
        aside = ask_aside(admin, "go")
        if parent_mode == "strict":
            asked = aside.wait_for("approval_required")
            wait_for_state(platform, aside.run_id, "waiting_approval")
            decide(admin, asked["approval_id"], "approve")
        while not any(
            e.data.get("app_id") == "helper" for e in aside.events if e.kind == "approval_required"
        ):
            time.sleep(0.01)
        wait_for_state(platform, aside.run_id, "waiting_approval")
    asked = [e.data for e in aside.events if e.kind == "approval_required"][-1]
    assert (asked["app_id"], asked["session_id"]) == ("helper", aside.session_id)
    # The question is shown under both apps.
    assert [row["approvalId"] for row in pending(admin)] == [asked["approval_id"]]
    under_child = admin.get("/apps/helper/agent/approvals").json
    assert [row["approvalId"] for row in under_child] == [asked["approval_id"]]
    model.say("Sub done.")
    model.say("All done.")
    decide(admin, asked["approval_id"], "approve")
    with working(platform, name="second"):
        talk = aside.finish()
    completed = talk.of_kind("tool_call_completed")
    assert len(completed) == 1
    assert completed[0]["output"] == {"agent": "helper", "response": "Sub.\n\nSub done."}
    assert talk.last.data["response"] == "All done."
    assert len(admin.get("/apps/helper/collections/notes").json) == 1
    assert notes(admin) == []


def test_cancelling_a_parent_cancels_its_sub_agent(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    install_agent(platform, admin)
    install_agent(platform, admin, {**MANIFEST, "appId": "helper", "name": "Helper"})
    role = next(r for r in admin.get("/roles").json if r["name"] == "app:stock:agent")
    keys = [*role["permissions"], "app:helper:invoke"]
    admin.patch("/roles/app:stock:agent", {"permissions": keys})
    model.call(Call("invoke_agent", {"app_id": "helper", "message": "talk"}))
    model.say(*["word "] * 200, pause_s=0.05)
    with working(platform):
        aside = ask_aside(admin, "go")
        aside.wait_for("sub_agent_chunk")
        admin.post(f"/apps/stock/agent/runs/{aside.run_id}/cancel")
        assert aside.finish().last.data["error"] == "run was cancelled"
    with platform.engine.connect() as connection:
        states = connection.exec_driver_sql("SELECT state FROM trellis.agent_runs").scalars()
        assert set(states) == {"cancelled"}
