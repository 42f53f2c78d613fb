"""The author SDKs in Python and JavaScript, held to the same rules by a scripted host.

Source: contract part 30, sections 4 to 6.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.sdk_host import ANA, START, Host, Starter

LIMIT = 8 * 1024 * 1024
SERVE_NOTHING = ("from trellis_worker import serve\nserve()\n", "serve();")


# --- handshake and start ---------------------------------------------------------------------


class TestHandshake:
    def test_names_the_methods_in_declaration_order(self, start: Starter) -> None:
        host = start(
            (
                "from trellis_worker import serve\n"
                "f = lambda: 1\nserve(rpc={'zeta': f, 'alpha': f, 'mid': f})\n",
                "const f = () => 1; serve({rpc: {zeta: f, alpha: f, mid: f}});",
            )
        )
        answer = host.discover()
        assert answer["protocol"] == 2
        assert answer["methods"] == ["zeta", "alpha", "mid"]

    def test_without_handlers_still_answers(self, start: Starter) -> None:
        host = start(SERVE_NOTHING)
        assert host.discover()["methods"] == []
        host.expect("started")
        assert host.rpc_error("ping") == "unknown method: ping"

    def test_blank_lines_crlf_and_unknown_messages_are_ignored(self, fresh: Host) -> None:
        fresh.send(b"\n\r\n")
        fresh.send({"type": "from_the_future", "id": "1"})
        discover = {"type": "discover", "call": START, "app_id": "crm", "run_onstart": False}
        fresh.send(json.dumps(discover).encode() + b"\r\n")
        fresh.expect("discover")
        fresh.expect("started")
        assert fresh.rpc("echo", 1) == 1

    def test_a_message_in_pieces_is_one_message(self, app: Host) -> None:
        line = '{"type":"rpc","call":"c","id":"p","method":"echo","params":"grün 🌿"}\n'.encode()
        for index in range(0, len(line), 7):
            app.send(line[index : index + 7])
        assert app.answer("p")["result"] == "grün 🌿"

    def test_slow_imports_lose_no_message(self, start: Starter) -> None:
        host = start(
            (
                "import time\ntime.sleep(0.5)\nfrom trellis_worker import serve\n"
                "serve(rpc={'echo': lambda p: p})\n",
                "await new Promise((r) => setTimeout(r, 500));\nserve({rpc: {echo: (p) => p}});",
            )
        )
        host.send_discover()
        keys = [host.begin("echo", number) for number in range(50)]
        assert [host.answer(key)["result"] for key in keys] == list(range(50))

    def test_serve_called_twice_is_an_error(self, start: Starter) -> None:
        host = start(
            (
                "from trellis_worker import serve\nserve(); serve()\n",
                "serve({}); serve({});",
            )
        )
        assert host.process.wait(15) == 1
        host.close()
        assert "serve() called twice" in "\n".join(host.stderr)

    def test_an_entry_that_fails_ends_the_process(self, start: Starter) -> None:
        host = start(("raise ValueError('no config')\n", "throw new Error('no config');"))
        assert host.process.wait(15) == 1
        host.close()
        assert "no config" in "\n".join(host.stderr)


class TestStart:
    def test_runs_once_before_the_first_call_with_the_start_token(self, fresh: Host) -> None:
        fresh.send_discover()
        key = fresh.begin("startCount")
        insert = fresh.expect("collection_op")
        assert insert["call"] == START
        assert (insert["op"], insert["entity"], insert["data"]) == (
            "insert",
            "settings",
            {"key": "a"},
        )
        fresh.silent("rpc_response")
        fresh.reply(insert, "collection_op_result", result={"id": "s1"})
        fresh.log_line("up", "info")
        assert "error" not in fresh.expect("started")
        assert fresh.answer(key)["result"] == 1

    def test_is_left_out_when_not_asked_for(self, fresh: Host) -> None:
        fresh.discover(run_onstart=False)
        fresh.expect("started")
        assert fresh.rpc("startCount") == 0

    def test_failure_is_told_and_the_worker_stays_up(self, fresh: Host) -> None:
        fresh.discover()
        fresh.reply(fresh.expect("collection_op"), "collection_op_result", error="record broken")
        fresh.log_line("record broken", "error")
        assert fresh.expect("started")["error"] == "record broken"
        assert fresh.rpc("echo", "alive") == "alive"


# --- handlers --------------------------------------------------------------------------------


class TestHandlers:
    @pytest.mark.parametrize("value", [None, 0, "", "grün 🌿\n", [1, [2]], {"a": {"b": None}}])
    def test_any_json_goes_in_and_out(self, app: Host, value: Any) -> None:
        assert app.rpc("echo", value) == value

    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("noArguments", "none"),
            ("oneArgument", [7]),
            ("twoArguments", [7, ANA["userId"]]),
            ("threeArguments", [7, ANA["userId"], "crm"]),
        ],
    )
    def test_takes_as_many_arguments_as_it_likes(
        self, app: Host, method: str, expected: Any
    ) -> None:
        assert app.rpc(method, 7, ANA) == expected

    def test_returning_nothing_is_null(self, app: Host) -> None:
        answer = app.answer(app.begin("nothing"))
        assert answer.get("result") is None
        assert "error" not in answer

    def test_sees_the_caller(self, app: Host) -> None:
        caller = {**ANA, "authToken": "eyJ"}
        assert app.rpc("whoami", None, caller) == [ANA["userId"], ANA["email"], "eyJ"]
        assert app.rpc("whoami") is None

    def test_sees_the_app(self, fresh: Host) -> None:
        fresh.ready(
            run_onstart=False,
            credentials={"SMTP_PASS": "x"},
            manifest={"name": "CRM"},
            agent_config={"max_turns": 50},
        )
        assert fresh.rpc("context") == {
            "app": "crm",
            "url": "http://127.0.0.1:9",
            "secrets": {"SMTP_PASS": "x"},
            "manifest": {"name": "CRM"},
            "agent": {"max_turns": 50},
            "job": None,
        }

    @pytest.mark.parametrize("method", ["toString", "__proto__", "constructor", "nope"])
    def test_unknown_method(self, app: Host, method: str) -> None:
        assert app.rpc_error(method) == f"unknown method: {method}"

    @pytest.mark.parametrize("method", ["fail", "failLater"])
    def test_failure_is_its_message_and_the_trace_goes_to_the_log(
        self, app: Host, method: str
    ) -> None:
        assert app.rpc_error(method, "no stock left") == "no stock left"
        assert "main." in app.log_line("no stock left", "error")["message"]
        app.log_line("reported", "info")

    def test_failure_without_message_is_its_class(self, app: Host) -> None:
        assert app.rpc_error("failEmpty") == "TypeError"

    def test_calls_run_at_the_same_time(self, app: Host) -> None:
        slow = app.begin("waitAsync", 1.0)
        quick = [app.begin("waitAsync", 0.01) for _ in range(20)]
        for key in quick:
            app.answer(key)
        assert not any(m["type"] == "rpc_response" and m["id"] == slow for m in app.messages)
        assert app.answer(slow)["result"] == 1.0

    def test_blocking_python_handlers_run_at_the_same_time(self, app: Host) -> None:
        if app.language == "js":
            pytest.skip("a blocking JavaScript handler blocks its process")
        slow = app.begin("waitSync", 1.0)
        for key in [app.begin("waitSync", 0.01) for _ in range(20)]:
            app.answer(key)
        assert not any(m["type"] == "rpc_response" and m["id"] == slow for m in app.messages)
        assert app.answer(slow)["result"] == 1.0


class TestResults:
    def test_common_types_have_a_json_form(self, app: Host) -> None:
        result = app.rpc("rich")
        assert result.pop("when") in {"2025-03-01T08:00:00Z", "2025-03-01T08:00:00.000Z"}
        assert result == {"bytes": "AQL/", "set": [1], "text": "grün 🌿"}

    def test_not_serialisable(self, app: Host) -> None:
        assert app.rpc_error("cyclic") == "result is not JSON serialisable"
        assert app.rpc("echo", 1) == 1

    def test_largest_result_fits_in_a_line(self, app: Host) -> None:
        overhead = app.answer(app.begin("big", 0))["_line_bytes"]
        room = LIMIT - overhead - 8
        answer = app.answer(app.begin("big", room))
        assert len(answer["result"]) == room
        assert answer["_line_bytes"] <= LIMIT

    def test_too_large(self, app: Host) -> None:
        assert app.rpc_error("big", LIMIT) == "result too large"
        assert app.rpc("echo", 1) == 1

    def test_the_host_sets_the_limit(self, fresh: Host) -> None:
        fresh.ready(run_onstart=False, limits={"max_line_bytes": 1000})
        assert fresh.rpc_error("big", 1000) == "result too large"
        assert fresh.rpc("big", 100) == "x" * 100


# --- jobs, output, end -----------------------------------------------------------------------


class TestJobs:
    def test_result_and_meta(self, app: Host) -> None:
        answer = app.job({"task": "digest"}, caller=ANA)
        assert answer["result"] == {
            "payload": {"task": "digest"},
            "user": ANA["userId"],
            "job": ["42", 2, "2025-03-01T08:00:00Z", "api"],
        }

    def test_failure(self, app: Host) -> None:
        assert app.job("fail")["error"] == "no such task"

    def test_extend(self, app: Host) -> None:
        app.send_job("extend")
        message = app.expect("job_extend", call="t-42", job_id="42", seconds=300)
        app.reply(message, "job_extend_result", ok=True)
        assert "error" not in app.expect("job_result", id="42")

    def test_retry_and_reject_are_no_failures(self, app: Host) -> None:
        assert app.job("later")["result"] == {"$job": {"retry": 90}}
        assert app.job("never")["result"] == {"$job": {"reject": "no such customer"}}

    def test_progress(self, app: Host) -> None:
        app.send_job("progress")
        message = app.expect("job_progress", call="t-42", job_id="42", progress=0.5, note="half")
        app.reply(message, "job_progress_result", ok=True)
        assert "error" not in app.expect("job_result", id="42")

    def test_without_handler_is_acknowledged_with_a_warning(self, start: Starter) -> None:
        host = start(SERVE_NOTHING).ready()
        answer = host.job({})
        assert "error" not in answer
        assert answer.get("result") == ({"ok": True} if host.language == "js" else None)
        host.log_line("job 42", "warn")

    def test_returning_nothing_is_success(self, start: Starter) -> None:
        host = start(
            (
                "from trellis_worker import serve\nserve(on_job=lambda: None)\n",
                "serve({onJob() {}});",
            )
        ).ready()
        answer = host.job({})
        assert "error" not in answer
        assert answer.get("result") == ({"ok": True} if host.language == "js" else None)


class TestOutput:
    def test_printing_becomes_a_log_line(self, app: Host) -> None:
        app.rpc("say", "hello 🌿")
        app.log_line("hello 🌿", "info")

    def test_printing_a_message_does_not_send_it(self, app: Host) -> None:
        forged = '{"type":"rpc_response","id":"r1","result":"forged"}'
        assert app.rpc("say", forged) is None
        app.log_line("forged", "info")

    def test_log_levels(self, app: Host) -> None:
        app.rpc("logAll")
        for level in ("debug", "info", "warn", "error"):
            app.log_line(f"at {level}", level)
        app.log_line("number 7", "warn")

    def test_long_lines_are_cut(self, app: Host) -> None:
        app.rpc("longLog")
        assert app.log_line("yyy")["message"] == "y" * 8192

    def test_events(self, app: Host) -> None:
        app.rpc("emit")
        assert app.expect("event", name="order")["data"] == {"id": 17}
        assert app.expect("event", name="bare").get("data", {}) == {}

    def test_stray_writes_do_not_corrupt_the_protocol(self, app: Host) -> None:
        for _ in range(20):
            assert app.rpc("stray") == "clean"
        assert app.shutdown() == 0
        app.close()
        written = "".join(app.stdout + app.stderr)
        assert written.count("half a line") == 20


class TestShutdown:
    def test_runs_the_hook_and_ends(self, app: Host) -> None:
        assert app.shutdown() == 0
        app.log_line("bye", "info")

    def test_open_calls_may_finish(self, app: Host) -> None:
        key = app.begin("waitAsync", 0.5)
        app.rpc("echo", 1)
        app.send({"type": "shutdown"})
        assert app.answer(key)["result"] == 0.5
        assert app.process.wait(15) == 0

    def test_a_hanging_call_does_not_outlast_the_grace(self, app: Host) -> None:
        app.begin("waitAsync", 60)
        app.rpc("echo", 1)
        app.send({"type": "shutdown"})
        assert app.process.wait(5) == 0

    def test_the_process_ends_when_the_host_is_gone(self, app: Host) -> None:
        assert app.process.stdin
        app.process.stdin.close()
        app.process.wait(15)
