"""Sessions, history and compaction (contract part 40, 1.10; check 8)."""

from __future__ import annotations

from uuid import uuid4

import pytest

from app.core.platform import Platform
from tests.fakes.model_server import Call, ModelServer
from tests.support.agents import MANIFEST, ask, install_agent
from tests.support.api import ApiClient, error

pytestmark = pytest.mark.usefixtures("worker")


def sent(model: ModelServer, number: int) -> list[tuple[str, str]]:
    messages = model.requests[number].body["messages"]
    return [(m["role"], m["content"]) for m in messages if m["role"] != "system"]


def test_without_memory_nothing_is_remembered(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    install_agent(platform, admin)
    model.say("one")
    model.say("two")
    session = ask(admin, "a").session_id
    ask(admin, "b", session_id=session)
    assert sent(model, 1) == [("user", "b")]
    assert len(admin.get(f"/apps/stock/agent/sessions/{session}").json["messages"]) == 4


def test_with_memory_the_session_is_given(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    install_agent(platform, admin, memory={"enabled": True})
    wanted = str(uuid4())
    model.call(Call("list_apps"), text=["one"])
    model.say("more")
    model.say("two")
    assert ask(admin, "a", session_id=wanted).session_id == wanted
    ask(admin, "b", session_id=wanted)
    assert sent(model, 2) == [("user", "a"), ("assistant", "one\n\nmore"), ("user", "b")]


def test_compaction(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(
        platform,
        admin,
        memory={"enabled": True},
        limits={"maxContextTokens": 1000, "keepRecentMessages": 2},
    )
    long = "word " * 300
    for answer in ("first", "second"):
        model.say(answer)
    session = ask(admin, f"one {long}").session_id
    ask(admin, f"two {long}", session_id=session)
    model.say("They said one and two.", usage=(50, 10))
    model.say("third", usage=(20, 5))
    talk = ask(admin, f"three {long}", session_id=session)
    assert talk.kinds == ["session_compacted", "chunk", "done"]
    assert talk.events[0].data["summary"] == "They said one and two."
    assert talk.last.data["tokens"] == 85
    summary_request = model.requests[2].body
    assert "tools" not in summary_request
    history = sent(model, 3)
    assert "They said one and two." in str(history[0][1])
    assert "two word" in str(history)
    assert "one word" not in str(history)
    detail = admin.get(f"/apps/stock/agent/sessions/{session}").json
    summary = next(m for m in detail["messages"] if m["isSummary"])
    assert (summary["role"], summary["tokenCount"]) == ("system", 60)
    model.say("fourth summary")
    model.say("fourth")
    ask(admin, "four", session_id=session)
    assert "one word" not in str(sent(model, -1))


def test_a_failed_summary_is_no_failure(
    platform: Platform, admin: ApiClient, model: ModelServer
) -> None:
    install_agent(
        platform,
        admin,
        memory={"enabled": True},
        limits={"maxContextTokens": 1000, "keepRecentMessages": 0},
    )
    model.say("first")
    session = ask(admin, "word " * 800).session_id
    model.say(status=400)
    model.say("second")
    talk = ask(admin, "x", session_id=session)
    assert talk.kinds == ["chunk", "done"]


def test_whose_sessions(platform: Platform, admin: ApiClient, model: ModelServer) -> None:
    install_agent(platform, admin)
    install_agent(platform, admin, {**MANIFEST, "appId": "other", "name": "Other"})
    user = admin.sign_up("u@example.com")
    admin.post("/roles", {"name": "u", "permissions": ["app:stock:invoke"]})
    admin.post("/roles/assign", {"userId": user.user_id, "role": "u"})
    model.say("for the admin")
    mine = ask(admin, "x").session_id
    model.say("for the user")
    theirs = ask(user, "y").session_id
    rows = admin.get("/apps/stock/agent/sessions").json
    assert [row["id"] for row in rows] == [theirs, mine]
    assert set(rows[0]) == {
        "id",
        "title",
        "status",
        "total_tokens",
        "turn_count",
        "user_id",
        "created_at",
        "updated_at",
    }
    assert [row["id"] for row in user.get("/apps/stock/agent/sessions").json] == [theirs]
    assert error(user.get(f"/apps/stock/agent/sessions/{mine}")) == (404, "session not found")
    assert error(user.get(f"/apps/stock/agent/sessions/{mine}/events")) == (
        404,
        "session not found",
    )
    assert error(admin.get(f"/apps/other/agent/sessions/{mine}")) == (404, "session not found")
    body = {"message": "x", "session_id": mine}
    assert error(user.post("/apps/stock/agent/invoke", body)) == (
        403,
        "session belongs to another user",
    )
    assert error(admin.post("/apps/other/agent/invoke", body)) == (404, "session not found")
    assert error(admin.get("/apps/stock/agent/sessions?limit=x")) == (
        400,
        "limit and offset must be integers",
    )
    assert len(admin.get("/apps/stock/agent/sessions?limit=0&offset=-3").json) == 1
    assert error(admin.get("/apps/stock/agent/sessions/7")) == (400, "not a valid UUID: '7'")
