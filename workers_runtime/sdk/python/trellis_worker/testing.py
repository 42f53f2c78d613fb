"""Unit tests of an app without a platform: its real runner, and a host made of Python objects.

    from trellis_worker.testing import Harness

    def test_greet():
        with Harness("backend/worker.py", secrets={"SMTP_PASS": "x"}) as app:
            app.records["contacts"] = [{"id": "c1", "name": "Ana"}]
            assert app.rpc("greet", {"contactId": "c1"}) == {"greeting": "Dear Ana"}
            assert app.jobs[0]["payload"] == {"task": "welcome"}

Handlers run as they do on a platform: ``def`` on threads, ``async def`` on an event loop, results
and operations through JSON, a ``ctx`` dead after its call. Permissions, types and SQL are the
platform's and not imitated: give ``on_sql`` for statements.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from trellis_worker import registry
from trellis_worker.encoding import dump
from trellis_worker.errors import HostError
from trellis_worker.fake_records import FakeRecords
from trellis_worker.fake_storage import FakeStorage
from trellis_worker.output import LogStream
from trellis_worker.registry import App, Handlers
from trellis_worker.server import Server
from trellis_worker.wire import CALL_OVER, Wire

__all__ = ["CALLER", "HandlerFailed", "Harness", "JobEnded"]

Message = dict[str, Any]  # Any: JSON

CALLER = {"userId": "00000000-0000-4000-8000-000000000001", "email": "tester@example.com"}
"""Who calls unless the test says otherwise."""

SQLFunction = Callable[[str, list[Any]], "list[dict[str, Any]] | int"]
ActionFunction = Callable[[str, Any], Any]


class HandlerFailed(Exception):
    """A handler raised; the text is what its caller would get."""


class JobEnded(Exception):
    """A job handler raised ``Retry`` or ``Reject``; ``order`` says which and with what."""

    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__(str(order))
        self.order = order


class _LocalWire(Wire):
    """A wire without pipes: what the worker sends goes to a function, as JSON would carry it."""

    def __init__(self, take: Callable[[Message], None]) -> None:
        super().__init__(-1, -1)
        self._take = take

    def _write(self, line: bytes) -> None:
        self._take(json.loads(line))


class Harness:
    """One worker process's worth of an app, inside the test.

    Attributes:
        records: entity -> list of records, read and written by ``ctx.collection``.
        jobs: what was enqueued, ``{"msg_id", "payload", "delay", "user"}`` each.
        logs: (level, message) of every log line.
        events: (name, data) of every ``ctx.emit``.
        statements: (sql, params) of every statement, ``COMMIT`` and ``ROLLBACK`` included.
        files: file id -> (name, content type, bytes).
        chunks: text pieces of the last agent run.
        extended: seconds of every ``ctx.job.extend``.
        progress: (fraction, note) of every ``ctx.job.progress``.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | App | dict[str, Any],
        *,
        app_id: str = "app",
        secrets: dict[str, str] | None = None,
        manifest: dict[str, Any] | None = None,
        on_sql: SQLFunction | None = None,
        on_action: ActionFunction | None = None,
        tools: dict[str, Callable[..., Any]] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Load the app and run its ``on_start``.

        Args:
            source: path of the entry file, an ``App``, or a dict as the global ``handlers``.
            app_id: ``ctx.app_id``.
            secrets: ``ctx.secrets``; environment variables are the test's own business.
            manifest: ``ctx.manifest``; with a ``dataContract`` only its entities exist.
            on_sql: (statement, params) -> rows as dicts, or the number of rows affected.
            on_action: (action, params) -> result of ``ctx.self_action`` and what builds on it.
            tools: name -> function(**args), for ``ctx.call_tool``.
            timeout_s: how long a call may take.

        Raises:
            HandlerFailed: ``on_start`` raised.
        """
        self.logs: list[tuple[str, str]] = []
        self.events: list[tuple[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.statements: list[tuple[str, list[Any]]] = []
        self.chunks: list[str] = []
        self.extended: list[int] = []
        self.progress: list[tuple[float, str | None]] = []
        self.app_id, self._on_sql, self._on_action = app_id, on_sql, on_action
        self._tools, self._timeout_s = tools or {}, timeout_s
        self._fake_records = FakeRecords(app_id, manifest)
        self.records = self._fake_records.entities
        self._storage = FakeStorage()
        self.files = self._storage.files
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Future[Any], Any]] = {}
        self._folder = ""
        self._wire = _LocalWire(self._take)
        self._handlers = self._load(source)
        self._server = Server(self._wire, self._handlers, LogStream(self._wire, "info"))
        discover = {"app_id": app_id, "credentials": secrets or {}, "manifest": manifest}
        self._call("discover", {**discover, "run_onstart": True}, None)

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Run ``on_shutdown`` and forget the app's modules; idempotent."""
        handler = self._handlers.hooks.pop("on_shutdown", None)
        if handler is not None:
            self._server._hook(handler, "on_shutdown")
        self._storage.close()
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) or ""
            if self._folder and path.startswith(self._folder + os.sep):
                del sys.modules[name]

    # --- calls -----------------------------------------------------------------------------

    def rpc(self, method: str, params: Any = None, *, caller: Any = CALLER) -> Any:
        """Call a method and return its result as the caller's JSON.

        Raises:
            HandlerFailed: it raised, or there is no such method.
        """
        return self._call("rpc", {"method": method, "params": params}, caller)

    def job(
        self, payload: Any = None, *, caller: Any = CALLER, read_ct: int = 1, source: str = "api"
    ) -> Any:  # Any: JSON
        """Deliver a job and return what its handler returned.

        Raises:
            HandlerFailed: it raised.
            JobEnded: it raised ``Retry`` or ``Reject``.
        """
        meta = {"read_ct": read_ct, "enqueued_at": "2025-01-01T00:00:00Z", "source": source}
        result = self._call("job", {"payload": payload, "meta": meta}, caller)
        if isinstance(result, dict) and set(result) == {"$job"}:
            raise JobEnded(result["$job"])
        return result

    def agent(self, message: str, *, history: Any = (), caller: Any = CALLER) -> str:
        """Run the app's agent and return its final text; see ``chunks`` and ``tools``.

        Raises:
            HandlerFailed: it raised.
        """
        self.chunks.clear()
        fields = {"session_id": str(uuid.uuid4()), "message": message, "history": list(history)}
        return str(self._call("agent_invoke", fields, caller))

    def _call(self, kind: str, fields: Message, caller: Any) -> Any:  # Any: JSON
        token = f"call-{next(self._numbers)}"
        future: Future[Any] = Future()
        with self._lock:
            self._open[token] = (future, caller)
        names = {"id": token, "invoke_id": token, "call": token, "caller": caller}
        self._server._take(json.loads(dump({"type": kind, **names, **fields})))
        try:
            return future.result(self._timeout_s)
        except TimeoutError:
            raise HandlerFailed(f"no answer within {self._timeout_s:g} s") from None
        finally:
            with self._lock:
                self._open.pop(token, None)

    # --- what the worker says --------------------------------------------------------------

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "log":
            self.logs.append((message["level"], message["message"]))
        elif kind == "event":
            self.events.append((message["name"], message["data"]))
        elif kind == "agent_chunk":
            self.chunks.append(message["delta"])
        elif kind in {"rpc_response", "job_result", "agent_done", "agent_error"}:
            self._settle(str(message.get("id") or message.get("invoke_id")), message)
        elif kind == "started":
            self._settle(next(iter(self._open)), message)
        else:
            self._answer(kind, message)

    def _settle(self, token: str, message: Message) -> None:
        with self._lock:
            future = self._open[token][0] if token in self._open else Future()
        if message.get("error"):
            future.set_exception(HandlerFailed(message["error"]))
        else:
            future.set_result(message.get("result", message.get("response")))

    def _answer(self, kind: str, message: Message) -> None:
        """Answer an operation as the host does, for open calls only."""
        with self._lock:
            found = self._open.get(message["call"])
        try:
            perform = getattr(self, f"_do_{kind}")
            body = perform(message, found[1]) if found else {"error": CALL_OVER}
        except HostError as exc:
            body = {"error": str(exc)}
        names: Message = {name: message[name] for name in ("id", "call_id") if name in message}
        self._wire.take_answer({"type": ANSWERS.get(kind, f"{kind}_result"), **names, **body})

    def _do_collection_op(self, message: Message, _caller: Any) -> Message:
        options = message.get("options") or {}
        fakes = self._fake_records
        return {"result": fakes.run(message["op"], message["entity"], message["data"], options)}

    def _do_sql_query(self, message: Message, _caller: Any) -> Message:
        statement, params = message["sql"], message["params"]
        self.statements.append((statement, params))
        if self._on_sql is None:
            raise HostError("give the harness on_sql to answer SQL")
        found = self._on_sql(statement, params)
        if isinstance(found, int):
            return {"columns": [], "rows": [], "row_count": found}
        columns = list(found[0]) if found else []
        rows = [[row[column] for column in columns] for row in found]
        return {"columns": columns, "rows": rows, "row_count": len(rows)}

    _do_sql_exec = _do_sql_query

    def _do_sql_begin(self, _message: Message, _caller: Any) -> Message:
        self.statements.append(("BEGIN", []))
        return {"tx_id": "1"}

    def _do_sql_commit(self, _message: Message, _caller: Any) -> Message:
        self.statements.append(("COMMIT", []))
        return {}

    def _do_sql_rollback(self, _message: Message, _caller: Any) -> Message:
        self.statements.append(("ROLLBACK", []))
        return {}

    def _do_job_enqueue(self, message: Message, caller: Any) -> Message:
        if caller is None:
            raise HostError("enqueue requires an authenticated caller")
        msg_id = len(self.jobs) + 1
        job = {"msg_id": msg_id, "payload": message["payload"], "delay": message.get("delay", 0)}
        self.jobs.append({**job, "user": caller["userId"]})
        return {"msg_id": msg_id}

    def _do_job_extend(self, message: Message, _caller: Any) -> Message:
        self.extended.append(message["seconds"])
        return {"ok": True}

    def _do_job_progress(self, message: Message, _caller: Any) -> Message:
        self.progress.append((message["progress"], message.get("note")))
        return {"ok": True}

    def _do_self_action(self, message: Message, caller: Any) -> Message:
        if caller is None:
            raise HostError("self_action requires an authenticated caller")
        if self._on_action is None:
            raise HostError("give the harness on_action to answer actions")
        return {"result": self._on_action(message["action"], message["params"])}

    def _do_storage_upload(self, message: Message, _caller: Any) -> Message:
        return {"url": self._storage.expect(message["name"], message["content_type"])}

    def _do_agent_tool_call(self, message: Message, _caller: Any) -> Message:
        tool = self._tools.get(message["tool_name"])
        if tool is None:
            raise HostError(f"unknown tool: {message['tool_name']}")
        return {"result": tool(**message["args"])}

    # --- loading ---------------------------------------------------------------------------

    def _load(self, source: str | os.PathLike[str] | App | dict[str, Any]) -> Handlers:
        if isinstance(source, App):
            hooks: dict[str, Any] = dict(source._hooks)
            return Handlers(source._rpc, **hooks)
        if isinstance(source, dict):
            return Handlers(**source)
        path = os.path.abspath(source)
        self._folder = os.path.dirname(path)
        with _as_main(path) as namespace, open(path, "rb") as handle:
            exec(compile(handle.read(), path, "exec"), namespace)  # noqa: S102  # the app's file
            return registry.registered(namespace)


@contextmanager
def _as_main(path: str) -> Iterator[dict[str, Any]]:
    """Be for a moment what the runner is for good: the app is ``__main__`` and may ``serve``."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__)
    before = sys.argv, sys.path[:], sys.modules["__main__"], registry._registered[:]
    sys.argv, sys.modules["__main__"] = [path], module
    sys.path.insert(0, os.path.dirname(path))
    registry._registered.clear()
    try:
        yield module.__dict__
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"], registry._registered[:] = before


ANSWERS = {
    "sql_commit": "sql_end_result",
    "sql_rollback": "sql_end_result",
    "storage_upload": "storage_upload_url",
    "agent_tool_call": "agent_tool_result",
}
