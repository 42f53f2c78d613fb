"""JavaScript apps run by the real runtime: sandboxed, with dependencies, replaced and refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_host import PATH
from workers_runtime.client import Reply, RuntimeClient, RuntimeHandlers
from workers_runtime.javascript import find_javascript
from workers_runtime.node_protocol import Operation
from workers_runtime.protocol import AppSpec, CallKind, FailureKind, Handshake, WorkerFailure

WHERE = """
serve({ rpc: {
  where: () => [process.getuid(), Object.keys(process.env).sort(), process.cwd()],
  count: async (params, caller, ctx) => (await ctx.sql('SELECT count(*) FROM t')).rows[0][0],
  fill: () => { const all = []; for (;;) all.push(new Array(1e6).fill(0)); },
} });
"""


class Node:
    """A runtime's client that answers every operation with the number 12."""

    def __init__(self, folder: Path, path: str = PATH) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.generation = 0
        self.client = RuntimeClient(
            state_dir=folder / "state",
            env={"PATH": path, "HOME": str(folder)},
            handlers=RuntimeHandlers(
                fetch_archive=lambda _, name: folder / name, on_operation=self._answer
            ),
        )
        self.client.start(60)

    def _answer(self, operation: Operation, reply: Reply) -> None:
        self.calls.append(operation.call)
        reply({"columns": ["n"], "rows": [[12]], "row_count": 1})

    def deploy(self, files: dict[str, str], **changes: Any) -> Handshake:
        """Run a new deployment; the first file is the entry point."""
        data = _pack(files)
        self.generation += 1
        name = secrets.token_hex(8)
        (self.folder / name).write_bytes(data)
        spec = AppSpec(
            app_id="crm",
            deployment_id=name,
            sha256=hashlib.sha256(data).hexdigest(),
            entry_point=next(iter(files)),
            runtime="js",
            generation=self.generation,
            runtime_url="http://127.0.0.1:9100",
            **changes,
        )
        return self.client.ensure(spec, clear=True).result(120)

    def rpc(self, method: str, call: str = "") -> Any:
        """Call a method and return its result."""
        return self.client.call(
            "crm",
            kind=CallKind.RPC,
            call=call or secrets.token_hex(16),
            message={"method": method, "params": None, "caller": None},
            deadline=time.time() + 30,
        ).result(40)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A state folder that app users can reach; shared, so Python is copied once."""
    root = Path(tempfile.mkdtemp(prefix="trellis-js-"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def make_node(root: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(**options: Any) -> Node:
        nodes.append(Node(root, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.client.stop()


def _pack(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_runs_in_the_sandbox_with_its_calls_own_token(make_node: Callable[..., Node]) -> None:
    node = make_node()
    handshake = node.deploy({"index.js": WHERE}, credentials={"SMTP_PASS": "x"})
    assert (handshake.protocol, handshake.methods) == (2, ["where", "count", "fill"])
    uid, names, _folder = node.rpc("where")
    assert (uid != 0) or os.geteuid() != 0
    assert uid != os.geteuid() or os.geteuid() != 0
    assert names == sorted(
        [
            *("TRELLIS_APP_ID", "TRELLIS_RUNTIME_URL", "TRELLIS_DEPLOYMENT_ID"),
            *("ROOTCX_APP_ID", "ROOTCX_RUNTIME_URL", "PATH", "HOME", "TMPDIR", "LANG"),
            "SMTP_PASS",
        ]
    )
    token = secrets.token_hex(16)
    assert node.rpc("count", token) == 12
    assert node.calls == [token]


def test_memory_limit_ends_the_process_not_the_node(make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.deploy({"index.js": WHERE})
    # Node aborts; Bun throws an error that the handler fails with.
    with pytest.raises(WorkerFailure, match=r"worker crashed|Out of memory"):
        node.rpc("fill")
    assert node.rpc("count") == 12


def test_redeploy_replaces_and_a_broken_one_does_not(make_node: Callable[..., Node]) -> None:
    node = make_node()
    for version in (1, 2):
        node.deploy({"src/index.js": f"serve({{ rpc: {{ version: () => {version} }} }});"})
        assert node.rpc("version") == version
    with pytest.raises(WorkerFailure) as failure:
        node.deploy({"index.js": "import 'not-there';"})
    assert failure.value.kind is FailureKind.START_FAILED
    assert "not-there" in failure.value.message
    assert node.rpc("version") == 2


def test_dependencies_are_installed(make_node: Callable[..., Node]) -> None:
    node = make_node()
    package = {"dependencies": {"greeter": "file:greeter"}}
    node.deploy(
        {
            "index.js": "import { greet } from 'greeter'; serve({ rpc: { hi: () => greet() } });",
            "package.json": json.dumps({"name": "app", "type": "module", **package}),
            "greeter/package.json": '{"name":"greeter","version":"1.0.0","main":"a.js"}',
            "greeter/a.js": "exports.greet = () => 'hello';",
        }
    )
    assert node.rpc("hi") == "hello"


def test_typescript_runs_or_is_refused_in_words(make_node: Callable[..., Node]) -> None:
    node = make_node()
    found = find_javascript(PATH)
    assert found is not None
    files = {"index.ts": "const n: number = 1; serve({ rpc: { n: () => n } });"}
    if found.strips_types:
        node.deploy(files)
        assert node.rpc("n") == 1
        return
    with pytest.raises(WorkerFailure, match=r"index\.ts is TypeScript, which Node"):
        node.deploy(files)


def test_without_a_javascript_runtime(make_node: Callable[..., Node], tmp_path: Path) -> None:
    node = make_node(path=str(tmp_path))
    with pytest.raises(WorkerFailure, match=r"^no JavaScript runtime available$"):
        node.deploy({"index.js": WHERE})
