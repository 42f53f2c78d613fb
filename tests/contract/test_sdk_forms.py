"""Every way an app may register its handlers, and scripts that speak the protocol themselves.

Source: contract part 30, 4.1, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_host import ANA, START, Host

Form = tuple[str, str, str]

FULL: dict[str, Form] = {
    "python-serve": (
        "python",
        "worker.py",
        """
from trellis_worker import serve

async def later(params): return params

serve(rpc={"ping": lambda: "pong", "later": later},
      on_job=lambda payload: {"got": payload},
      on_start=lambda ctx: ctx.log.info("up " + ctx.app_id),
      on_shutdown=lambda: print("down"),
      on_error=lambda exc, where: None)
""",
    ),
    "python-app": (
        "python",
        "worker.py",
        """
from trellis_worker import App

app = App()

@app.rpc
def ping(): return "pong"

@app.rpc("later")
async def anything(params): return params

@app.on_job
def job(payload): return {"got": payload}

@app.on_start
async def start(ctx): ctx.log.info("up " + ctx.app_id)

@app.on_shutdown
async def stop(): print("down")

app.serve()
""",
    ),
    "python-global": (
        "python",
        "worker.py",
        """
handlers = {
    "rpc": {"ping": lambda: "pong", "later": lambda params, caller, ctx: params},
    "on_job": lambda payload, *rest: {"got": payload},
    "on_start": lambda ctx: ctx.log.info("up " + ctx.app_id),
    "on_shutdown": lambda: print("down"),
}
""",
    ),
    "js-current": (
        "js",
        "index.mjs",
        """
serve({
  rpc: { ping: () => 'pong', later: async (params) => params },
  onJob: (payload) => ({ got: payload }),
  onStart: (ctx) => ctx.log.info('up ' + ctx.appId),
  onShutdown: () => console.log('down'),
  onError: () => {},
});
""",
    ),
    "js-two-arguments-flat": (
        "js",
        "index.mjs",
        """
serve({ ping: () => 'pong', later: async (params) => params }, {
  onJob: async (payload) => ({ got: payload }),
  onStart: async (config) => log.info('up ' + config.appId),
  async onShutdown() { console.log('down'); },
  onError() {},
});
""",
    ),
    "js-two-arguments-rpc": (
        "js",
        "index.mjs",
        """
serve({ rpc: { ping: () => 'pong', later: async (params) => params } }, {
  onJob: async (payload) => ({ got: payload }),
  onStart: (ctx) => log.info('up ' + ctx.appId),
  onShutdown: () => console.log('down'),
});
""",
    ),
    "js-commonjs": (
        "js",
        "index.js",
        """
const { setTimeout: sleep } = require('node:timers/promises');
module.exports = {};
serve({
  rpc: { ping: () => 'pong', later: (params) => sleep(5, params) },
  onJob: (payload) => ({ got: payload }),
  onStart: (ctx) => ctx.log.info('up ' + ctx.appId),
  onShutdown: () => console.log('down'),
});
""",
    ),
    "js-module-with-top-level-await": (
        "js",
        "index.js",
        """
import { setTimeout as sleep } from 'node:timers/promises';
const pong = await sleep(50, 'pong');
class Methods {
  ping = () => pong;
  later = function (params) { return this.ping() === pong && sleep(5, params); };
}
serve({
  rpc: new Methods(),
  onJob: (payload) => ({ got: payload }),
  onStart: (ctx) => ctx.log.info('up ' + ctx.appId),
  onShutdown: () => console.log('down'),
});
await sleep(60_000);
""",
    ),
}

PROTOCOL_1: dict[str, Form] = {
    "python": (
        "python",
        "worker.py",
        """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "discover":
        print(json.dumps({"type": "discover", "methods": ["ping"]}), flush=True)
    elif message["type"] == "rpc":
        answer = {"type": "rpc_response", "id": message["id"], "result": message["params"]}
        print(json.dumps(answer), flush=True)
    elif message["type"] == "shutdown":
        break
""",
    ),
    "js-data-events": (
        "js",
        "index.js",
        """
const send = (message) => process.stdout.write(JSON.stringify(message) + '\\n');
let rest = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (chunk) => {
  const lines = (rest + chunk).split('\\n');
  rest = lines.pop();
  for (const message of lines.map((line) => JSON.parse(line))) {
    if (message.type === 'discover') send({ type: 'discover', methods: ['ping'] });
    if (message.type === 'rpc') {
      send({ type: 'rpc_response', id: message.id, result: message.params });
    }
    if (message.type === 'shutdown') process.exit(0);
  }
});
console.log('script log');
emit('script', { works: true });
""",
    ),
    "js-lines": (
        "js",
        "index.mjs",
        """
import { createInterface } from 'node:readline';
await new Promise((resolve) => setTimeout(resolve, 300));
const send = (message) => process.stdout.write(JSON.stringify(message) + '\\n');
console.log('script log');
emit('script', { works: true });
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === 'discover') send({ type: 'discover', methods: ['ping'] });
  if (message.type === 'rpc') {
    send({ type: 'rpc_response', id: message.id, result: message.params });
  }
  if (message.type === 'shutdown') break;
}
process.exit(0);
""",
    ),
    "js-chunks": (
        "js",
        "index.mjs",
        """
const send = (message) => process.stdout.write(JSON.stringify(message) + '\\n');
console.log('script log');
emit('script', { works: true });
let rest = '';
for await (const chunk of process.stdin) {
  const lines = (rest + chunk).split('\\n');
  rest = lines.pop();
  for (const message of lines.map((line) => JSON.parse(line))) {
    if (message.type === 'discover') send({ type: 'discover', methods: ['ping'] });
    if (message.type === 'rpc') {
      send({ type: 'rpc_response', id: message.id, result: message.params });
    }
    if (message.type === 'shutdown') process.exit(0);
  }
}
""",
    ),
}


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """An app of one form."""
    language, entry, source = request.param
    (tmp_path / entry).write_text(source)
    host = Host(language, tmp_path, entry, {})
    yield host
    host.close()


def every(forms: dict[str, Form]) -> Any:
    return pytest.mark.parametrize("host", forms.values(), ids=forms.keys(), indirect=True)


@every(FULL)
def test_every_form_of_registration_works(host: Host) -> None:
    answer = host.discover()
    assert (answer["protocol"], answer["methods"]) == (2, ["ping", "later"])
    host.log_line("up crm", "info")
    host.expect("started")
    assert host.rpc("ping") == "pong"
    assert host.rpc("later", {"a": 1}, ANA) == {"a": 1}
    assert host.job([1])["result"] == {"got": [1]}
    assert host.shutdown() == 0
    host.log_line("down", "info")
    assert not [m for m in host.messages if m.get("level") in {"warn", "error"}]


@every(PROTOCOL_1)
def test_a_script_with_its_own_loop_is_left_alone(host: Host) -> None:
    host.send_discover()
    handshake = host.expect("discover")
    assert "protocol" not in handshake
    assert handshake["methods"] == ["ping"]
    assert [host.rpc("ping", n) for n in range(20)] == list(range(20))
    host.send({"type": "job", "call": "c", "id": "9", "payload": {}, "meta": {}})
    assert host.rpc("ping", "after the job") == "after the job"
    if host.language == "js":
        host.log_line("script log", "info")
        assert host.expect("event", name="script")["data"] == {"works": True}
    assert host.shutdown() == 0
    host.close()
    assert not host.messages, "the prelude must not answer for the script"


JS_FLAT = """
serve({ ping: () => 'pong', echo: (params) => params, version: '1.0' });
"""


@every({"js": ("js", "index.mjs", JS_FLAT)})
def test_the_flat_form_warns_once(host: Host) -> None:
    assert host.discover()["methods"] == ["ping", "echo"]
    host.expect("started")
    assert host.rpc("echo", 1) == 1
    host.log_line("old form", "warn")
    host.log_line("'version' is not a function", "warn")
    assert host.shutdown() == 0
    host.close()
    assert not [m for m in host.messages if m.get("level") == "warn"]


BAD = {
    "python-hook": ("python", "worker.py", "handlers = {'rpc': {}, 'onjob': print}"),
    "python-method": (
        "python",
        "worker.py",
        "from trellis_worker import serve\nserve(rpc={'a': 1})",
    ),
    "js-hook": ("js", "index.mjs", "serve({ onJob: 'later' });"),
    "js-argument": ("js", "index.mjs", "serve('ping');"),
    "js-rpc": ("js", "index.mjs", "serve({ rpc: () => 1 });"),
}


@every(BAD)
def test_wrong_registration_stops_the_start_with_a_reason(host: Host) -> None:
    host.send_discover()
    assert host.process.wait(15) == 1
    host.close()
    assert "TypeError" in "\n".join(host.stderr)
    assert not [m for m in host.messages if m["type"] == "discover"]


TWICE = """
serve({ rpc: { again() { try { serve({}); } catch (error) { return error.message; } } } });
"""


@every({"js": ("js", "index.mjs", TWICE)})
def test_serve_called_again_later_throws_and_changes_nothing(host: Host) -> None:
    host.ready(call=START)
    assert host.rpc("again") == "serve() called twice"
    assert host.rpc("again") == "serve() called twice"
