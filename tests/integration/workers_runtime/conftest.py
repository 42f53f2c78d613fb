"""A real runtime with real app processes, driven through the node's client."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workers_runtime.client import Reply, RuntimeClient, RuntimeHandlers
from workers_runtime.node_protocol import Operation
from workers_runtime.protocol import AppSpec, AppState, CallKind, LogEntry, WorkerFailure

FAST = {"WORKER_STOP_GRACE": "0.6", "WORKER_HANDSHAKE_TIMEOUT": "5"}


def pack(files: dict[str, str]) -> bytes:
    """Return a gzip-compressed tar of text files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Wait until a process no longer runs."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


class Rig:
    """One client and what came out of it."""

    def __init__(self, root: Path, archives: Path, env: dict[str, str]) -> None:
        self.archives = archives
        self.logs: list[LogEntry] = []
        self.states: list[AppState] = []
        self.operations: list[Operation] = []
        self.ended_calls: list[str] = []
        self.answers: Callable[[Operation, Reply], None] = lambda op, reply: reply({"result": None})
        self.fetched: list[str] = []
        self._changed = threading.Condition()
        self._generation = 0
        mine = dict(os.environ)  # the test is its own composition root
        kept = ("PATH", "HOME", "LANG")
        basic = {k: v for k, v in mine.items() if k in kept or k.startswith(("PIP_", "SSL_"))}
        self.client = RuntimeClient(
            state_dir=root,
            env={
                **basic,
                "DATABASE_URL": "postgresql://leak",
                "REDIS_URL": "redis://leak",
                "MASTER_KEY": "leak",
                **FAST,
                **env,
            },
            handlers=RuntimeHandlers(
                fetch_archive=self._fetch,
                on_operation=self._on_operation,
                on_logs=self._on_logs,
                on_state=self._on_state,
                on_call_ended=lambda _app, call: self.ended_calls.append(call),
            ),
        )

    def _fetch(self, app_id: str, deployment_id: str) -> Path:
        self.fetched.append(deployment_id)
        return self.archives / f"{deployment_id}.tgz"

    def _on_operation(self, op: Operation, reply: Reply) -> None:
        self.operations.append(op)
        self.answers(op, reply)

    def _on_logs(self, entries: list[LogEntry]) -> None:
        with self._changed:
            self.logs.extend(entries)
            self._changed.notify_all()

    def _on_state(self, state: AppState) -> None:
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def spec(self, source: str | dict[str, str], app_id: str = "crm", **changes: Any) -> AppSpec:
        """Store an archive and return the spec of a new deployment of it."""
        files = {"worker.py": source} if isinstance(source, str) else source
        data = pack(files)
        self._generation += 1
        values: dict[str, Any] = {
            "app_id": app_id,
            "deployment_id": secrets.token_hex(8),
            "sha256": hashlib.sha256(data).hexdigest(),
            "entry_point": next(iter(files)),
            "generation": self._generation,
            "runtime_url": "http://127.0.0.1:9100",
            **changes,
        }
        (self.archives / f"{values['deployment_id']}.tgz").write_bytes(data)
        return AppSpec(**values)

    def start(self, source: str | dict[str, str], app_id: str = "crm", **changes: Any) -> AppSpec:
        """Ensure a new deployment and wait for its handshake."""
        spec = self.spec(source, app_id, **changes)
        self.client.ensure(spec, clear=True).result(30)
        return spec

    def send(
        self,
        method: str,
        params: Any = None,
        *,
        app_id: str = "crm",
        timeout_s: float = 20.0,
        **fields: Any,
    ) -> Any:
        """Start an RPC; returns its future."""
        message = {"method": method, "params": params, "caller": None, **fields}
        return self.client.call(
            app_id,
            kind=CallKind.RPC,
            call=secrets.token_hex(16),
            message=message,
            deadline=time.time() + timeout_s,
        )

    def rpc(self, method: str, params: Any = None, **options: Any) -> Any:
        """Call a method and return its result."""
        return self.send(method, params, **options).result(30)

    def failure(self, method: str, params: Any = None, **options: Any) -> WorkerFailure:
        """Call a method that fails and return how."""
        error = self.send(method, params, **options).exception(30)
        assert isinstance(error, WorkerFailure)
        return error

    def wait_log(self, text: str, level: str | None = None, within_s: float = 10.0) -> LogEntry:
        """Wait for a log line that contains a text."""
        found = self._wait(
            lambda: next(
                (e for e in self.logs if text in e.message and level in {None, e.level}), None
            ),
            within_s,
        )
        assert found is not None, f"no log line with {text!r} in {self.logs[-20:]}"
        return found

    def wait_state(self, status: str, app_id: str = "crm", within_s: float = 15.0) -> AppState:
        """Wait until the app's last known state is this one."""

        def last() -> AppState | None:
            mine = [s for s in self.states if s.app_id == app_id]
            return mine[-1] if mine and mine[-1].status == status else None

        found = self._wait(last, within_s)
        assert found is not None, f"not {status}: {self.states[-10:]}"
        return found

    def _wait(self, check: Callable[[], Any], within_s: float) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: check() is not None, within_s)
            return check()

    def state(self, app_id: str = "crm") -> AppState:
        """Ask the runtime for the app's state."""
        return next(s for s in self.client.status().result(5) if s.app_id == app_id)


@pytest.fixture(scope="session")
def runtime_root() -> Iterator[Path]:
    """A state folder that app users can reach; shared, so Python is copied once."""
    root = Path(tempfile.mkdtemp(prefix="trellis-test-"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def make_rig(runtime_root: Path, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Start runtimes with changed settings; all end with the test."""
    rigs: list[Rig] = []

    def make(*, start: bool = True, **env: str) -> Rig:
        rig = Rig(runtime_root, tmp_path, env)
        rigs.append(rig)
        if start:
            rig.client.start(30)
        return rig

    yield make
    for rig in rigs:
        rig.client.stop()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """One running runtime."""
    return make_rig()
