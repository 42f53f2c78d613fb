"""Runs nobody asked for in person (contract part 40, 1.14; check 11)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.agents import jobs as agent_jobs
from app.agents import service
from app.core.errors import Forbidden, NotFound
from app.core.platform import Platform
from app.jobs import deliveries
from app.jobs import service as jobs_service
from app.jobs.service import NewJob
from app.rbac import service as rbac_service
from tasks.jobs import _start_agent_run
from tests.fakes.model_server import Call, ModelServer
from tests.support.agents import install_agent, wait_for_state
from tests.support.api import ApiClient


@pytest.fixture
def cron(admin: ApiClient, stock: str) -> str:
    """A cron of the agent's app, owned by the administrator."""
    body = {"name": "daily", "schedule": "0 0 * * *", "payload": {"message": "count"}}
    answer = admin.post(f"/apps/{stock}/crons", body)
    assert answer.status_code in {200, 201}, answer.json
    return str(answer.json["id"])


def fire(platform: Platform, admin: ApiClient, cron: str, **options: Any) -> str:
    values = {"app_id": "stock", "message": "count", "source": "cron", "trigger_id": cron}
    with platform.uow() as uow:
        owner = UUID(admin.user_id or "")
        run_id = service.start_autonomous(uow, **{"owner_id": owner, **values, **options})
    return str(run_id)


def refusal(platform: Platform, admin: ApiClient, cron: str, **options: Any) -> str:
    with pytest.raises((Forbidden, NotFound)) as caught:
        fire(platform, admin, cron, **options)
    return caught.value.message


def test_gates(platform: Platform, admin: ApiClient, model: ModelServer, cron: str) -> None:
    assert refusal(platform, admin, cron, owner_id=None) == "no owner"
    assert refusal(platform, admin, cron, owner_id=UUID(int=7)) == "owner disabled"
    assert refusal(platform, admin, cron, app_id="ghost") == "app has no agent"
    assert refusal(platform, admin, cron, trigger_id="another") == "no valid delegation"
    assert refusal(platform, admin, cron, source="hook") == "no valid delegation"
    peer = admin.sign_up("peer@example.com")
    peer_id = UUID(peer.user_id or "")
    assert refusal(platform, admin, cron, owner_id=peer_id) == "no valid delegation"
    with platform.uow() as uow:
        service.delegate(
            uow, delegator_id=peer_id, app_id="stock", trigger_type="hook", trigger_id="h"
        )
    assert (
        refusal(platform, admin, cron, owner_id=peer_id, source="hook", trigger_id="h")
        == "missing permission: app:stock:invoke"
    )
    fire(platform, admin, cron)
    admin.delete(f"/apps/stock/crons/{cron}")
    assert refusal(platform, admin, cron) == "no valid delegation"
    assert len(admin.get("/apps/stock/agent/sessions").json) == 1


def test_a_disabled_owner(
    platform: Platform, admin: ApiClient, model: ModelServer, cron: str
) -> None:
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE kind = 'human'")
        )
    assert refusal(platform, admin, cron) == "owner disabled"


def test_crons_older_than_the_agent_may_run_it(
    platform: Platform, admin: ApiClient, model: ModelServer, cron: str
) -> None:
    assert admin.delete("/agents/stock").status_code == 200
    assert refusal(platform, admin, cron) == "app has no agent"
    install_agent(platform, admin)
    assert fire(platform, admin, cron)


def start_from_queue(platform: Platform, admin: ApiClient, cron: str) -> tuple[int, str]:
    """Put a message on the queue, take it as a turn does, and start its run."""
    owner = UUID(admin.user_id or "")
    with platform.uow() as uow:
        job = NewJob("stock", {"message": "count"}, owner, "cron", "agent", cron_id=UUID(cron))
        msg_id = jobs_service.put(uow, [job])[0]
    with platform.uow() as uow:
        actor = rbac_service.load_actor(uow.session, owner)
        assert actor is not None
        taken = deliveries.take_for_agent(uow, platform.settings.jobs, app_id="stock", most=8)
        assert [a.delivery.msg_id for a in taken.assignments] == [msg_id]
        agent_jobs.start(
            uow,
            actor,
            app_id="stock",
            msg_id=msg_id,
            source="cron",
            cron_id=cron,
            hook_id=None,
            payload={"message": "count"},
        )
    with platform.engine.connect() as connection:
        run_id = connection.exec_driver_sql("SELECT id FROM trellis.agent_runs").scalar_one()
    return msg_id, str(run_id)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("good", [True, False])
def test_the_message_is_settled_with_the_run(
    platform: Platform, admin: ApiClient, model: ModelServer, cron: str, good: bool
) -> None:
    if good:
        model.say("Counted.")
    else:
        model.say(status=400)
    msg_id, run_id = start_from_queue(platform, admin, cron)
    wait_for_state(platform, run_id, "completed" if good else "failed")
    with platform.engine.connect() as connection:
        table = "jobs_archive" if good else "jobs_dead"
        query = f"SELECT msg_id FROM trellis.{table}"
        assert connection.exec_driver_sql(query).scalars().all() == [msg_id]
    session = admin.get("/apps/stock/agent/sessions").json[0]
    assert (session["title"], session["user_id"]) == ("count", admin.user_id)


@pytest.mark.usefixtures("worker")
def test_it_stays_in_its_own_app(
    platform: Platform, admin: ApiClient, model: ModelServer, cron: str
) -> None:
    keys = ["app:*", "tool:query_data", "tool:list_apps"]
    admin.patch("/roles/app:stock:agent", {"permissions": keys})
    model.call(
        Call("query_data", {"entity": "moves"}), Call("query_data", {"entity": "x", "app": "other"})
    )
    model.say("ok")
    run_id = fire(platform, admin, cron)
    wait_for_state(platform, run_id, "completed")
    session = admin.get("/apps/stock/agent/sessions").json[0]
    detail = admin.get(f"/apps/stock/agent/sessions/{session['id']}").json
    assert [call["error"] for call in detail["messages"][1]["toolCalls"]] == [
        None,
        "missing permission: app:other:x.read",
    ]


@pytest.mark.usefixtures("worker", "stock")
def test_a_hook_runs_the_agent(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    # A redeploy of a deleted agent gives the hook its delegation back.
    body = {"entity": "moves", "operation": "INSERT", "action_type": "agent"}
    hook = admin.post("/apps/stock/hooks", body)
    assert hook.status_code in {200, 201}, hook.json
    admin.delete("/agents/stock")
    install_agent(platform, admin)
    admin.post("/apps/stock/collections/moves", {"item": "bolt"})
    model.say("Seen.")
    with platform.uow() as uow:
        taken = deliveries.take_for_agent(uow, platform.settings.jobs, app_id="stock", most=8)
        for assignment in taken.assignments:
            _start_agent_run(uow, assignment)
    assert len(taken.assignments) == 1
    with platform.engine.connect() as connection:
        run_id = connection.exec_driver_sql("SELECT id FROM trellis.agent_runs").scalar_one()
    wait_for_state(platform, str(run_id), "completed")
    asked = model.requests[0].body["messages"][1]["content"]
    assert asked.startswith("Record change: INSERT stock.moves ")
    assert '"item": "bolt"' in asked


def test_what_a_hook_tells_the_agent() -> None:
    payload = {
        "operation": "INSERT",
        "entity": "moves",
        "record_id": "r1",
        "record": {"item": "é"},
        "old_record": None,
        "action_config": {"app_id": "desk"},
    }
    assert agent_jobs._request("stock", "hook", payload) == (
        "desk",
        'Record change: INSERT stock.moves r1\n\n{"record": {"item": "é"}, "old_record": null}',
    )
    assert agent_jobs._request("stock", "cron", {}) == ("stock", "This is a scheduled run.")
    assert agent_jobs._request("stock", "cron", {"message": "go"}) == ("stock", "go")
