"""agent.json (contract part 40, 1.1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.agents.definition import Definition, parse, window_seconds
from app.core.errors import Invalid


def read(document: Any, **files: bytes) -> Definition | None:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse({"agent.json": raw, **files}.get)


def test_defaults() -> None:
    found = read({"name": "A", "description": "does things"})
    assert found == Definition(
        "A",
        "does things",
        {
            "systemPrompt": "You are A. does things",
            "memory": {"enabled": False},
            "limits": {"maxTurns": 50, "maxContextTokens": 100_000, "keepRecentMessages": 10},
            "supervision": {"mode": "autonomous", "policies": []},
        },
        "You are A. does things",
    )


def test_absent() -> None:
    assert parse({"worker.py": b""}.get) is None


def test_backend_folder_and_paths() -> None:
    document = json.dumps({"name": "A", "systemPrompt": "./p.md"}).encode()
    beside = {"backend/agent.json": document, "backend/p.md": b"beside", "p.md": b"root"}
    assert parse(beside.get).prompt == "beside"  # type: ignore[union-attr]
    at_root = {"backend/agent.json": document, "p.md": b"root"}
    assert parse(at_root.get).prompt == "root"  # type: ignore[union-attr]
    named = read({"name": "A", "systemPrompt": "prompts/a.txt"}, **{"prompts/a.txt": b"text"})
    assert named is not None
    assert (named.config["systemPrompt"], named.prompt) == ("prompts/a.txt", "text")
    inline = read({"name": "A", "systemPrompt": "See\nREADME.md"})
    assert inline is not None
    assert inline.prompt == "See\nREADME.md"


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"name": None}, "name", "is required"),
        ({"name": " "}, "name", "must not be empty"),
        ({"name": 5}, "name", "must be a string"),
        ({"name": "x" * 121}, "name", "must be at most 120 characters"),
        ({"name": "a\u0000"}, "name", "contains a character that cannot be stored"),
        ({"description": "x" * 2001}, "description", "must be at most 2000 characters"),
        ({"systemPrompt": "../x.md"}, "systemPrompt", "must stay inside the archive"),
        ({"systemPrompt": "/x.md"}, "systemPrompt", "must stay inside the archive"),
        ({"systemPrompt": "./x.md"}, "systemPrompt", "file './x.md' is not in the archive"),
        ({"memory": 1}, "memory", "must be an object"),
        ({"memory": {"enabled": "yes"}}, "memory.enabled", "must be a boolean"),
        ({"limits": {"maxTurns": 201}}, "limits.maxTurns", "must be an integer from 1 to 200"),
        ({"limits": {"maxTurns": True}}, "limits.maxTurns", "must be an integer from 1 to 200"),
        ({"supervision": {}}, "supervision.mode", "is required"),
        (
            {"supervision": {"mode": "loose"}},
            "supervision.mode",
            "must be 'autonomous', 'supervised' or 'strict'",
        ),
        (
            {"supervision": {"mode": "strict", "policies": [{}]}},
            "supervision.policies[0].action",
            "is required",
        ),
        (
            {"supervision": {"mode": "strict", "policies": [{"action": "*", "requires": "x"}]}},
            "supervision.policies[0].requires",
            "must be 'approval'",
        ),
        (
            {
                "supervision": {
                    "mode": "strict",
                    "policies": [{"action": "*", "rateLimit": {"max": 1, "window": "1w"}}],
                }
            },
            "supervision.policies[0].rateLimit.window",
            "must be a number of seconds or like '30s', '10m', '2h', '1d'",
        ),
        ({"permissions": ["*"]}, "permissions[0]", "'*' cannot be granted to an agent"),
        (
            {"permissions": ["a", "admin:x"]},
            "permissions[1]",
            "'admin:x' cannot be granted to an agent",
        ),
        ({"permissions": ["A B"]}, "permissions[0]", "must be a permission key"),
    ],
)
def test_violations(change: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        read({"name": "A", **change})
    assert caught.value.message == f"agent.json is invalid: {path}: {reason}"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"name": "' + b"x" * 300_000])
def test_no_document(raw: bytes) -> None:
    with pytest.raises(Invalid, match=r"agent.json is invalid: \$: "):
        read(raw)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("0", None), ("x", None)],
)
def test_windows(text: str, seconds: int | None) -> None:
    assert window_seconds(text) == seconds
