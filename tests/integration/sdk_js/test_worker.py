"""What only the JavaScript SDK has: globals, console, rejections, children, odd values."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_host import SDK, Host, storage
from workers_runtime.javascript import find_javascript

Start = Callable[..., Host]


def with_rpc(body: str, before: str = "", after: str = "") -> str:
    return f"{before}\nserve({{ rpc: {{ {body} }}, {after} }});"


class TestGlobals:
    def test_upload_finds_the_call_it_runs_in(self, start: Start) -> None:
        host = start(
            with_rpc("async up() { await null; return uploadFile('x', 'a.txt'); }")
        ).ready()
        with storage() as (url, received):
            key = host.begin("up")
            message = host.expect("storage_upload", call=f"t-{key}", name="a.txt", size=1)
            assert message["content_type"] == "application/octet-stream"
            host.reply(message, "storage_upload_url", url=url)
            assert host.answer(key)["result"] == "f1"
        assert received == [b"x"]

    def test_upload_after_the_call_is_refused(self, start: Start) -> None:
        source = with_rpc(
            """
            leave() { setTimeout(() => uploadFile('x').catch((e) => log.info(e.message)), 50); },
            """
        )
        host = start(source).ready()
        host.rpc("leave")
        host.log_line("call is over")
        host.silent("storage_upload", 0.1)

    def test_upload_outside_any_call_is_refused(self, start: Start) -> None:
        after = "\nsetTimeout(() => uploadFile('x').catch((e) => log.info(e.message)), 50);"
        host = start(with_rpc("") + after).ready()
        host.log_line("uploadFile() called outside a call")
        host.silent("storage_upload", 0.1)

    def test_upload_in_a_protocol_1_script(self, start: Start) -> None:
        host = start(
            """
            process.stdin.on('data', async (data) => {
              if (!`${data}`.includes('"rpc"')) return;
              const id = await uploadFile(new Uint8Array([1, 2]), 'b', 'image/png');
              process.stdout.write(`{"type":"rpc_response","id":"r1","result":"${id}"}\\n`);
            });
            """
        )
        host.send_discover()
        with storage() as (url, received):
            key = host.begin("any")
            message = host.expect("storage_upload", name="b", content_type="image/png", size=2)
            assert "call" not in message
            host.reply(message, "storage_upload_url", url=url)
            assert host.answer(key)["result"] == "f1"
        assert received == [b"\x01\x02"]

    def test_upload_refused_by_storage(self, start: Start) -> None:
        host = start(with_rpc("up: () => uploadFile('x')")).ready()
        with storage(404) as (url, _):
            key = host.begin("up")
            host.reply(host.expect("storage_upload"), "storage_upload_url", url=url)
            assert host.answer(key)["error"] == "no such upload"

    @pytest.mark.parametrize("content", ["42", "{}", "null"])
    def test_upload_of_no_content(self, start: Start, content: str) -> None:
        host = start(with_rpc(f"up: () => uploadFile({content})")).ready()
        assert host.rpc_error("up").startswith("file content must be")


class TestConsole:
    @pytest.mark.parametrize(
        ("code", "text", "level"),
        [
            ("console.log('a %d', 7, { b: [1] })", "a 7 { b: [ 1 ] }", "info"),
            ("console.info('i')", "i", "info"),
            ("console.debug('d')", "d", "info"),
            ("console.warn('w')", "w", "warn"),
            ("console.error(new Error('broken'))", "Error: broken", "error"),
            ("console.dir({ x: 1 })", "{ x: 1 }", "info"),
            ("console.table([{ x: 1 }])", "x", "info"),
            ("console.count('visits')", "visits: 1", "info"),
            ("console.time('t'); console.timeEnd('t')", "t: ", "info"),
            ("console.group('head'); console.groupEnd()", "head", "info"),
            ("console.trace('here')", "Trace: here", "error"),
            ("console.assert(1 > 2, 'sums')", "Assertion failed: sums", "warn"),
            ("console.log('two\\nlines')", "two\nlines", "info"),
            ("const { log } = console; log('bare')", "bare", "info"),
            ("log.info('x', { y: 1 })", "x { y: 1 }", "info"),
        ],
    )
    def test_reaches_the_log(self, start: Start, code: str, text: str, level: str) -> None:
        host = start(with_rpc(f"run() {{ {code} }}")).ready()
        host.rpc("run")
        host.log_line(text, level)
        assert host.shutdown() == 0
        host.close()
        assert (host.stdout, host.stderr) == ([], [])

    def test_raw_stdout_stays_raw(self, start: Start) -> None:
        host = start(with_rpc("run() { process.stdout.write('a line\\nno end'); }")).ready()
        host.rpc("run")
        assert host.shutdown() == 0
        host.close()
        assert host.stdout == ["a line", "no end"]

    @pytest.mark.parametrize("child", ["", "process.stdout.write('child\\n')"])
    def test_flood_loses_nothing(self, start: Start, child: str) -> None:
        # A child that shares the pipe makes it non-blocking for everybody.
        line = "x" * 1000
        host = start(
            with_rpc(
                f"""flood() {{
                    const code = "{child}";
                    if (code) spawn(process.execPath, ['-e', code], {{ stdio: 'inherit' }});
                    for (let i = 0; i < 20000; i++) console.log(i + ' {line}');
                    return process.memoryUsage().rss;
                }}""",
                "import { spawn } from 'node:child_process';",
            )
        ).ready()
        assert host.rpc("flood") < 250 * 1024 * 1024
        numbers = [int(m["message"].split()[0]) for m in host.messages if m["type"] == "log"]
        assert numbers == list(range(20000))


class TestFailures:
    @pytest.mark.parametrize(
        ("thrown", "text"),
        [
            ("'just text'", "just text"),
            ("{ message: 'object' }", "object"),
            ("{ code: 7 }", "[object Object]"),
            ("null", "null"),
            ("undefined", "undefined"),
            ("Object.create(null)", "unknown error"),
            ("new Error('', { cause: 1 })", "Error"),
        ],
    )
    def test_anything_may_be_thrown(self, start: Start, thrown: str, text: str) -> None:
        host = start(with_rpc(f"run() {{ throw {thrown}; }}")).ready()
        assert host.rpc_error("run") == text

    def test_on_error_is_told_what_failed_where(self, start: Start) -> None:
        host = start(
            with_rpc(
                "run() { throw new Error('rpc broke'); }",
                after="""
                onJob() { throw new Error('job broke'); },
                onError(error, method) { log.info(`${method}: ${error.message}`); throw 1; },
                """,
            )
        ).ready()
        assert host.rpc_error("run") == "rpc broke"
        host.log_line("run: rpc broke", "info")
        assert host.job({})["error"] == "job broke"
        host.log_line("onJob: job broke", "info")

    def test_a_forgotten_rejection_ends_nobody(self, start: Start) -> None:
        host = start(with_rpc("run() { Promise.reject(new Error('forgotten')); }")).ready()
        host.rpc("run")
        host.log_line("unhandled rejection: Error: forgotten", "error")
        assert host.rpc("run") is None

    @pytest.mark.parametrize(
        "source",
        [
            "serve({}); await Promise.reject(new Error('at the top'));",
            "const main = async () => { throw new Error('at the top'); }; main();",
            "serve({}); setTimeout(() => { throw new Error('at the top'); }, 20);",
        ],
    )
    def test_failing_outside_handlers_ends_the_process(self, start: Start, source: str) -> None:
        host = start(source)
        assert host.process.wait(15) == 1
        host.close()
        assert "at the top" in "\n".join(host.stderr)

    def test_ending_without_serve_says_so(self, start: Start) -> None:
        host = start("console.log('done');")
        assert host.process.wait(15) == 0
        host.close()
        assert host.stderr == ["the entry point ended without calling serve()"]

    def test_a_start_that_hangs_holds_calls_back_for_a_limited_time(self, start: Start) -> None:
        host = start(with_rpc("ping: () => 'pong'", after="onStart: () => new Promise(() => {})"))
        host.discover(limits={"rpc_timeout_ms": 500})
        key = host.begin("ping")
        assert host.expect("started")["error"] == "onStart did not finish within 0.5 s"
        assert host.answer(key)["result"] == "pong"


class TestValues:
    @pytest.mark.parametrize(
        ("code", "result"),
        [
            ("12345678901234567890n", "12345678901234567890"),
            ("new Map([['a', new Set([1])]])", {"a": [1]}),
            ("Buffer.from('hi')", "aGk="),
            ("({ b: new Uint8Array([255]).buffer })", {"b": "/w=="}),
            ("'half \\ud800 pair'", "half \ufffd pair"),
            ("'kept \\\\ud800'", "kept \\ud800"),
            ("'whole 🌿'", "whole 🌿"),
            ("[undefined, NaN, () => 1]", [None, None, None]),
        ],
    )
    def test_json_form(self, start: Start, code: str, result: Any) -> None:
        host = start(with_rpc(f"run: () => {code}")).ready()
        assert host.rpc("run") == result

    @pytest.mark.parametrize("code", ["() => 1", "Symbol('s')", "{ toJSON() { throw 1; } }"])
    def test_no_json_form(self, start: Start, code: str) -> None:
        host = start(with_rpc(f"run: () => ({code})")).ready()
        assert host.rpc_error("run") == "result is not JSON serialisable"

    def test_arguments_without_json_form(self, start: Start) -> None:
        host = start(with_rpc("run: (p, c, ctx) => ctx.sql('SELECT $1', [() => ctx, ctx.log])"))
        host.ready()
        key = host.begin("run")
        host.reply(host.expect("sql_query"), "sql_query_result", columns=[], rows=[], row_count=0)
        assert host.answer(key)["result"] == {"columns": [], "rows": [], "rowCount": 0}

    def test_secrets_cannot_be_changed(self, start: Start) -> None:
        host = start(with_rpc("run(p, c, ctx) { ctx.credentials.KEY = 'other'; }"))
        host.ready(credentials={"KEY": "x"})
        assert "assign to read" in host.rpc_error("run")


class TestOperations:
    def test_many_operations_wait_their_turn(self, start: Start) -> None:
        host = start(
            with_rpc(
                """async run(p, c, ctx) {
                    const all = Array.from({ length: 300 }, (_, i) => ctx.sql(`${i}`));
                    return (await Promise.all(all)).map((r) => r.rows[0][0]);
                }"""
            )
        ).ready()
        key = host.begin("run")
        first = [host.expect("sql_query") for _ in range(128)]
        host.silent("sql_query")
        for query in first:
            host.reply(query, "sql_query_result", columns=["n"], rows=[[query["sql"]]])
        for _ in range(300 - 128):
            query = host.expect("sql_query")
            host.reply(query, "sql_query_result", columns=["n"], rows=[[query["sql"]]])
        assert host.answer(key)["result"] == [str(n) for n in range(300)]

    def test_a_transaction_is_closed_afterwards(self, start: Start) -> None:
        host = start(
            with_rpc(
                """async run(p, c, ctx) {
                    let kept;
                    await ctx.transaction(async (tx) => { kept = tx; });
                    await kept.sql('SELECT 1');
                }"""
            )
        ).ready()
        key = host.begin("run")
        host.reply(host.expect("sql_begin"), "sql_begin_result", tx_id="x")
        host.reply(host.expect("sql_commit"), "sql_end_result")
        assert host.answer(key)["error"] == "no open transaction"


class TestChildren:
    def test_forks_and_threads_run_without_the_prelude(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "child.mjs").write_text("console.log(typeof serve);")
        (tmp_path / "thread.mjs").write_text(
            "import { parentPort } from 'node:worker_threads';"
            "parentPort.postMessage(typeof globalThis.serve);"
        )
        before = """
        import { fork } from 'node:child_process';
        import { once } from 'node:events';
        import { Worker } from 'node:worker_threads';
        """
        host = start(
            with_rpc(
                """
                async fork() {
                  const child = fork('./child.mjs', { silent: true });
                  return `${(await once(child.stdout, 'data'))[0]}`.trim();
                },
                async thread() { return (await once(new Worker('./thread.mjs'), 'message'))[0]; },
                """,
                before,
            )
        ).ready()
        assert host.rpc("fork") == "undefined"
        assert host.rpc("thread") == "undefined"

    def test_output_of_children_does_not_corrupt_the_protocol(self, start: Start) -> None:
        host = start(
            with_rpc(
                "run: () => spawnSync('printf', ['no end'], { stdio: 'inherit' }).status",
                "import { spawnSync } from 'node:child_process';",
            )
        ).ready()
        for _ in range(5):
            assert host.rpc("run") == 0
        assert host.shutdown() == 0
        host.close()
        assert host.stdout == ["no end"] * 5


class TestSandbox:
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
    def test_runs_as_another_user_with_limits(self, tmp_path: Path) -> None:
        javascript = find_javascript(os.pathsep.join(os.get_exec_path()))
        assert javascript is not None
        if any(
            not p.stat().st_mode & 1 for p in (*SDK.parents, *javascript.path.resolve().parents)
        ):
            pytest.skip("this checkout cannot be read by other users")
        memory = 512 * 1024 * 1024
        for folder in (tmp_path, *tmp_path.parents):
            if folder == Path(tempfile.gettempdir()):
                break
            folder.chmod(0o755)
        (tmp_path / "index.js").write_text(
            with_rpc("run: () => [process.getuid(), Object.keys(process.env).sort()]")
        )

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

        options = {"user": 61234, "group": 61234, "extra_groups": [], "preexec_fn": limit}
        host = Host("js", tmp_path, "index.js", {}, **options)
        try:
            host.ready()
            assert host.rpc("run") == [61234, ["PATH", "PYTHONPATH"]]
        finally:
            host.close()
