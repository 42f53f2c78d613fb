"""The help desk's walk-through, on real processes and the fake model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.acceptance.conftest import Platform
from tests.fakes.model_server import Answer, Call, Seen, model_server
from tests.fakes.telegram import TOKEN, FakeTelegram

DEMO = Path(__file__).parents[2] / "examples" / "helpdesk" / "demo.sh"


def clerk(seen: Seen) -> Answer:
    """Answer like a model that follows the prompt."""
    messages = seen.body["messages"]
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    results = [m["content"] for m in messages if m["role"] == "tool"]
    if not results:
        where = {"status": {"$eq": "open"}}
        return Answer(calls=[Call("query_data", {"entity": "tickets", "where": where})])
    tickets = json.loads(results[0])["data"]
    printer = next(t for t in tickets if "Printer" in t["subject"])
    if "printer" in question and len(results) == 1:
        data = {"ticket": printer["id"], "text": "Please step away; help is coming."}
        return Answer(
            calls=[Call("mutate_data", {"entity": "replies", "action": "create", "data": data})]
        )
    if "Look through" in question and len(results) == 1:
        change = {"entity": "tickets", "action": "update", "id": printer["id"]}
        return Answer(calls=[Call("mutate_data", {**change, "data": {"priority": "urgent"}})])
    return Answer(text=["There are ", f"{len(tickets)} open tickets."])


def ann_uses_telegram(platform: Platform, telegram: FakeTelegram, env: dict[str, str]) -> None:
    """Run the Telegram part, and do what it asks a person to do."""
    script = DEMO.with_name("telegram.sh")
    env = {**env, "TELEGRAM_BOT_TOKEN": TOKEN, "PUBLIC_URL": "https://trellis.example"}
    with subprocess.Popen([str(script)], env=env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("https://t.me/"):
                deliver(platform, telegram, f"/start {line.strip().rpartition('=')[2]}")
            if "now ask the bot" in line:
                deliver(platform, telegram, "Which tickets are open?")
            if line.startswith("All steps passed."):
                channel_id = line.strip().rstrip(".").rpartition(" ")[2]
    assert running.returncode == 0
    assert telegram.texts(41) == ["Your account is linked.", "There are 2 open tickets."]
    assert platform.admin.delete(f"/channels/{channel_id}").status_code == 200


def deliver(platform: Platform, telegram: FakeTelegram, words: str) -> None:
    assert telegram.webhook is not None
    path = telegram.webhook["url"].partition("/api/v1")[2]
    update = telegram.message(words, sender=41)
    answer = platform.admin.post(path, json=update, headers=telegram.headers)
    assert answer.status_code == 200, answer.text


def test_the_walk_through_passes(shared_platform: Platform, telegram: FakeTelegram) -> None:
    with model_server() as server:
        server.script = clerk
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TRELLIS_URL": shared_platform.stack.url,
            "DEMO_EMAIL": "admin@example.com",
            "MODEL_URL": server.v1,
            "MODEL_NAME": "fake",
        }
        done = subprocess.run(
            [str(DEMO)], env=environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "All steps passed." in done.stdout
        assert "policy: mutate on replies needs approval" in done.stdout
        assert "There are 2 open tickets." in done.stdout
        ann_uses_telegram(shared_platform, telegram, environment)
        assert shared_platform.admin.delete("/apps/helpdesk").status_code == 200
        assert shared_platform.admin.delete("/llm-models/helpdesk").status_code == 204
