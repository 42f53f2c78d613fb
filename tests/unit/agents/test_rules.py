"""Rules of agents that need neither a database nor a model."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.agents import supervision, transcript
from app.agents.authority import agent_user_id, own_app_only
from app.agents.tools.base import touches_app
from app.core.permissions import Permissions

POLICIES = [
    {"action": "query", "rateLimit": {"max": 9, "window": "1m"}},
    {"action": "mutate", "entity": "moves", "requires": "approval"},
    {"action": "*", "rateLimit": {"max": 2, "window": "2h"}},
]


def test_identity_is_derived_from_the_app() -> None:
    assert agent_user_id("crm") == agent_user_id("crm") == UUID(str(agent_user_id("crm")))
    assert agent_user_id("crm").version == 5
    assert agent_user_id("crm") != agent_user_id("desk")


@pytest.mark.parametrize(
    ("mode", "action", "entity", "reason"),
    [
        ("autonomous", "mutate", "moves", None),
        ("supervised", "mutate", "moves", "policy: mutate on moves needs approval"),
        ("supervised", "mutate", "notes", None),
        ("supervised", "query", "moves", None),
        ("strict", "query", None, "strict mode: every tool call needs approval"),
    ],
)
def test_consent(mode: str, action: str, entity: str | None, reason: str | None) -> None:
    given = {"mode": mode, "policies": POLICIES}
    assert supervision.consent_reason(given, action, entity) == reason


def test_limits_of_a_call() -> None:
    found = supervision.rate_limits(POLICIES, "query", None)
    assert [(limit.most, limit.window_s, limit.action) for limit in found] == [
        (9, 60, "query"),
        (2, 7200, None),
    ]
    assert len(supervision.rate_limits(POLICIES, "list_apps", None)) == 1


def test_words_of_policies() -> None:
    assert supervision.action_of("query_data") == "query"
    assert supervision.action_of("mutate_data") == "mutate"
    assert supervision.action_of("call_action") == "call_action"


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"app:a:x.read", "app:b:x.read", "tool:t"}, {"app:a:x.read", "tool:t"}),
        ({"*"}, {"app:a:*", "tool:*", "integration:*"}),
        ({"app:*"}, {"app:a:*"}),
        ({"app:b:*"}, set()),
    ],
)
def test_autonomous_runs_stay_in_their_app(keys: set[str], kept: set[str]) -> None:
    assert own_app_only(Permissions.of(keys), "a").keys == kept


@pytest.mark.parametrize(
    ("key", "touched"),
    [("app:a:invoke", True), ("app:ab:invoke", False), ("app:*", True), ("*", True), ("x", False)],
)
def test_what_touches_an_app(key: str, touched: bool) -> None:
    assert touches_app(Permissions.of([key]), "a") is touched


def test_fingerprints_ignore_order_and_see_everything_else() -> None:
    first = transcript.call_hash("t", {"a": 1, "b": [1, 2]})
    assert first == transcript.call_hash("t", {"b": [1, 2], "a": 1})
    for other in (("u", {"a": 1, "b": [1, 2]}), ("t", {"a": 1, "b": [2, 1]}), ("t", {"a": "1"})):
        assert transcript.call_hash(*other) != first


def test_long_results_are_cut() -> None:
    text = transcript.result_text("x" * 100_000)
    assert len(text) == 65_536 + len(transcript.CUT_NOTE)
    assert transcript.stored_output({"a": 1}) == {"a": 1}
    cut = transcript.stored_output({"a": "é" * 1_000_000})
    assert isinstance(cut, str)
    assert len(cut.encode()) <= 1024 * 1024


def test_old_results_make_room() -> None:
    results = [transcript.tool_result(str(i), "", f"r{i}", is_error=False) for i in range(6)]
    slim = transcript.without_old_results([transcript.user(*results)])
    texts = [block["content"] for block in slim[0]["content"]]
    assert texts == [transcript.PLACEHOLDER] * 2 + ["r2", "r3", "r4", "r5"]
