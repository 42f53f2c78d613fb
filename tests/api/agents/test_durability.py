"""Runs outlive workers, clients and Redis (contract part 40, 1.7; checks 6 and 7)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import text

from app.agents import run_repository, runs, sweeper
from app.core.platform import Platform
from app.core.wire import Wire
from config.settings import Settings
from tests.fakes.model_server import Answer, Call, ModelServer
from tests.support.agents import (
    Talk,
    ask,
    ask_aside,
    install_agent,
    parse_stream,
    state_of,
    wait_for_state,
    working,
)
from tests.support.api import ApiClient, error

READ = Call("query_data", {"entity": "moves", "limit": 1})
WRITE = Call("mutate_data", {"entity": "notes", "action": "create", "data": {"body": "x"}})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    agents = replace(settings.agents, heartbeat=timedelta(seconds=0.2))
    return replace(settings, agents=agents)


@pytest.fixture
def held(model: ModelServer) -> Iterator[threading.Event]:
    """Holds the model's answers back until it is set."""
    event = threading.Event()
    yield event
    event.set()


def follow(client: ApiClient, run_id: str, after: int | None = None) -> Talk:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    return Talk.of(client.get(f"/apps/stock/agent/runs/{run_id}/stream", headers=headers))


@pytest.mark.usefixtures("stock", "worker")
def test_a_client_that_leaves_does_not_stop_the_run(
    platform: Platform, admin: ApiClient, model: ModelServer, held: threading.Event
) -> None:
    model.call(READ, text=["One."])
    model.answers.append(Answer(text=["Two", " three."], hold=held))
    response = admin.post("/apps/stock/agent/invoke", {"message": "go"})
    run_id = response.headers["X-Run-Id"]
    first = next(p.decode() for p in response.iter_encoded() if not p.startswith(b":"))
    response.close()
    held.set()
    wait_for_state(platform, run_id, "completed")
    seen = parse_stream(first)
    rest = follow(admin, run_id, seen[-1].seq)
    whole = follow(admin, run_id)
    assert [*seen, *rest.events] == whole.events
    assert whole.last.data["response"] == whole.text == "One.\n\nTwo three."


@pytest.mark.usefixtures("stock", "worker")
def test_a_lost_stream_is_replayed_from_the_table(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.call(READ, text=["One."])
    model.say("Two.")
    talk = ask(admin, "go")
    platform.redis.flushdb()
    again = follow(admin, talk.run_id)
    assert again.kinds == ["tool_call_started", "tool_call_completed", "done"]
    assert again.last == talk.last
    assert error(admin.get(f"/apps/stock/agent/runs/{UUID(int=7)}/stream")) == (
        404,
        "run not found",
    )


@pytest.mark.usefixtures("stock", "worker")
def test_redis_emptied_in_mid_run(
    platform: Platform, admin: ApiClient, model: ModelServer, held: threading.Event
) -> None:
    model.call(READ, text=["One."])
    model.answers.append(Answer(text=["Two."], hold=held))
    aside = ask_aside(admin, "go")
    aside.wait_for("tool_call_completed")
    platform.redis.flushall()
    held.set()
    talk = aside.finish()
    assert talk.last.kind == "done"
    assert talk.last.data["response"] == "One.\n\nTwo."


def wait_for_requests(model: ModelServer, count: int) -> None:
    deadline = time.monotonic() + 15
    while len(model.requests) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("stock")
def test_an_orderly_stop_hands_the_run_on(
    platform: Platform, admin: ApiClient, model: ModelServer, held: threading.Event
) -> None:
    model.call(WRITE, text=["One."])
    model.answers.append(Answer(text=["never heard"], hold=held))
    with working(platform, name="first") as first:
        aside = ask_aside(admin, "go")
        wait_for_requests(model, 2)
        # The model is silent meanwhile, and stays so.
        first.keeper.stop()
        wait_for_state(platform, aside.run_id, "queued")
    assert not held.is_set()
    model.say("Two.")
    with working(platform, name="second"):
        talk = aside.finish()
    assert "error" not in talk.kinds
    assert talk.last.data["response"] == talk.text == "One.\n\nTwo."
    assert len(admin.get("/apps/stock/collections/notes").json) == 1


def silence(platform: Platform, run_id: str) -> None:
    """Make a run look as if its worker died."""
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE trellis.agent_runs SET heartbeat_at = now() - interval '1 hour',"
                " owner = 'dead' WHERE id = :id"
            ),
            {"id": run_id},
        )


@pytest.mark.usefixtures("stock")
def test_a_lost_run_goes_on_from_its_last_saved_turn(
    platform: Platform, admin: ApiClient, model: ModelServer, held: threading.Event
) -> None:
    model.call(WRITE, text=["One."])
    model.answers.append(Answer(text=["lost", " text"], hold=held))
    with working(platform, name="dead"):
        aside = ask_aside(admin, "go")
        wait_for_requests(model, 2)
        silence(platform, aside.run_id)
        held.set()
    assert state_of(platform, aside.run_id) == "running"
    sweeper.sweep(platform)
    assert state_of(platform, aside.run_id) == "queued"
    model.say("Two.")
    with working(platform, name="second"):
        talk = aside.finish()
    assert talk.last.kind == "done"
    assert talk.last.data["response"] == talk.text
    assert talk.text.endswith("\n\nTwo.")
    assert len(admin.get("/apps/stock/collections/notes").json) == 1
    requests = [r.body["messages"] for r in model.requests]
    assert [m["role"] for m in requests[-1]] == [m["role"] for m in requests[1]]
    assert requests[-1][-1] == requests[1][-1]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(("tool", "outcome"), [("query_data", "queued"), ("mutate_data", "failed")])
def test_a_lost_run_with_a_call_in_flight(
    platform: Platform, admin: ApiClient, model: ModelServer, tool: str, outcome: str
) -> None:
    response = admin.post("/apps/stock/agent/invoke", {"message": "go"})
    run_id = UUID(response.headers["X-Run-Id"])
    held = runs.take(platform, run_id, "dead")
    assert held is not None
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO trellis.agent_tool_calls
                (id, run_id, session_id, app_id, tool_name, action, input, status)
                VALUES (gen_random_uuid(), :run, :session, 'stock', :tool, 'x', '{}', 'running')"""
            ),
            {"run": run_id, "session": held.session_id, "tool": tool},
        )
    silence(platform, str(run_id))
    sweeper.sweep(platform)
    assert state_of(platform, str(run_id)) == outcome
    if outcome == "failed":
        talk = Talk.of(response)
        assert talk.kinds == ["error"]
        assert talk.last.data["error"] == "agent worker was lost"
        model.say("fine")
        with working(platform):
            assert ask(admin, "again", session_id=talk.session_id).last.kind == "done"
    response.close()


@pytest.mark.usefixtures("stock", "model")
def test_a_run_that_kills_its_workers_ends(platform: Platform, admin: ApiClient) -> None:
    response = admin.post("/apps/stock/agent/invoke", {"message": "go"})
    run_id = response.headers["X-Run-Id"]
    states = []
    for number in range(4):
        assert runs.take(platform, UUID(run_id), f"dead{number}") is not None
        silence(platform, run_id)
        sweeper.sweep(platform)
        states.append(state_of(platform, run_id))
    assert states == ["queued", "queued", "queued", "failed"]
    assert Talk.of(response).last.data["error"] == "agent worker was lost"


@pytest.mark.usefixtures("stock")
def test_a_worker_that_comes_back_changes_nothing(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    response = admin.post("/apps/stock/agent/invoke", {"message": "go"})
    run_id = UUID(response.headers["X-Run-Id"])
    assert runs.take(platform, run_id, "old") is not None
    assert runs.take(platform, run_id, "other") is None
    silence(platform, str(run_id))
    sweeper.sweep(platform)
    assert runs.take(platform, run_id, "new") is not None
    with platform.uow() as uow, pytest.raises(runs.NotHolding):
        runs.holding(uow.session, run_id, "old")
    response.close()


@pytest.mark.usefixtures("stock", "worker")
def test_duplicate_messages_do_nothing(
    platform: Platform, admin: ApiClient, model: ModelServer, worker
) -> None:
    model.say("once")
    talk = ask(admin, "go")
    for _ in range(3):
        worker.runner.run(UUID(talk.run_id))
    assert len(model.requests) == 1
    detail = admin.get(f"/apps/stock/agent/sessions/{talk.session_id}").json
    assert len(detail["messages"]) == 2


@pytest.mark.usefixtures("stock")
def test_nobody_takes_the_run(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    response = admin.post("/apps/stock/agent/invoke", {"message": "go"})
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.agent_runs SET queued_at = now() - interval '121 seconds'")
        )
    sweeper.sweep(platform)
    talk = Talk.of(response)
    assert talk.last.data["error"] == "no worker picked up the run within 120 seconds"


@pytest.mark.usefixtures("stock", "worker")
def test_cancel_in_mid_stream(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    model.say(*["word "] * 200, pause_s=0.05)
    aside = ask_aside(admin, "go")
    aside.wait_for("chunk")
    peer = admin.sign_up("peer@example.com")
    path = f"/apps/stock/agent/runs/{aside.run_id}/cancel"
    assert error(peer.post(path)) == (404, "run not found")
    assert admin.post(path).status_code == 200
    talk = aside.finish()
    assert talk.last.data["error"] == "run was cancelled"
    detail = admin.get(f"/apps/stock/agent/sessions/{aside.session_id}").json
    assert detail["status"] == "active"
    assert detail["messages"][1]["content"] == talk.text


@pytest.mark.usefixtures("stock", "worker")
def test_cancel_while_the_model_is_silent(
    admin: ApiClient, model: ModelServer, held: threading.Event
) -> None:
    model.answers.append(Answer(text=["never heard"], hold=held))
    aside = ask_aside(admin, "go")
    wait_for_requests(model, 1)
    admin.post(f"/apps/stock/agent/runs/{aside.run_id}/cancel")
    assert aside.finish().last.data["error"] == "run was cancelled"
    assert not held.is_set()


@pytest.mark.usefixtures("worker")
def test_seconds_are_limited(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(platform, admin, limits={"maxSeconds": 1})
    model.say(*["word "] * 100, pause_s=0.05)
    assert ask(admin, "go").last.data["error"] == "run exceeded 1 seconds"


@pytest.mark.usefixtures("stock")
def test_broker_away_keeps_nothing(
    platform: Platform, admin: ApiClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise RedisAway("connection refused")

    # The broker itself is shared by the tests of this process; only its client says it is away.
    monkeypatch.setattr(Wire, "send", refuse)
    assert error(admin.post("/apps/stock/agent/invoke", {"message": "go"})) == (
        503,
        "agent queue is unavailable",
    )
    assert admin.get("/apps/stock/agent/sessions").json == []


@pytest.mark.usefixtures("stock", "worker")
def test_deleting_the_agent_in_mid_run(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    model.say(*["word "] * 200, pause_s=0.05)
    aside = ask_aside(admin, "go")
    aside.wait_for("chunk")
    assert admin.delete("/agents/stock").json == {"status": "ok"}
    talk = aside.finish()
    assert talk.last.data["error"] == "run was cancelled"
    assert len(talk.of_kind("chunk")) < 100
    assert error(admin.delete("/agents/stock")) == (404, "agent 'stock' not found")
    assert error(admin.get("/apps/stock/agent")) == (404, "app 'stock' has no agent")
    assert admin.get("/apps/stock/agent/sessions").json == []
    with platform.uow() as uow:
        assert run_repository.run(uow.session, UUID(aside.run_id)) is None
    install_agent(platform, admin)
    model.answers.clear()
    model.say("back")
    assert ask(admin, "hello").last.data["response"] == "back"
