"""``ctx``: what a handler may ask of the host, blocking or awaitable under the same names."""

from __future__ import annotations

from trellis_worker.errors import CallOver, ToolError
from trellis_worker.values import ReadOnly, Record, Result
from trellis_worker.wire import CALL_OVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from trellis_worker.wire import Message, Wire


UNHURRIED = frozenset({"syncConnectedUsers"})
"""Actions of the platform that take as long as there is work."""


class Session:
    """What every ``ctx`` of a process shares: the wire and the host's ``discover``."""

    def __init__(self, wire: Wire, discover: Message) -> None:
        self.wire = wire
        self.app_id: str = discover.get("app_id", "")
        self.runtime_url: str = discover.get("runtime_url", "")
        self.deployment_id: str | None = discover.get("deployment_id")
        self.manifest: Any = discover.get("manifest")
        self.agent_config: Any = discover.get("agent_config")
        self.secrets = ReadOnly(discover.get("credentials") or {})


class BaseContext:
    """All of ``ctx`` but how it waits. Belongs to one call: afterwards it raises ``CallOver``."""

    def __init__(
        self,
        session: Session,
        call: str,
        *,
        caller: Record | None = None,
        job: Message | None = None,
        invoke_id: str | None = None,
    ) -> None:
        self._session_data = session
        self._call = call
        self._caller = caller
        self._over = False
        self._invoke_id = invoke_id
        self._finished: Message | None = None
        self._job = Job(self, job) if job is not None else None

    # --- what it knows ---------------------------------------------------------------------

    @property
    def app_id(self) -> str:
        """Id of the app."""
        return self._session.app_id

    @property
    def runtime_url(self) -> str:
        """Base URL of the platform's API as seen from this process."""
        return self._session.runtime_url

    @property
    def deployment_id(self) -> str | None:
        """Id of the deployment this process runs."""
        return self._session.deployment_id

    @property
    def manifest(self) -> Any:  # Any: JSON
        """The app's manifest, or None."""
        return self._session.manifest

    @property
    def agent_config(self) -> Any:  # Any: JSON
        """Tools and limits of the app's agent, or None."""
        return self._session.agent_config

    @property
    def secrets(self) -> ReadOnly:
        """Platform and app secrets by name, read-only."""
        return self._session.secrets

    credentials = secrets

    @property
    def caller(self) -> Record | None:
        """Who called, or None."""
        self._check()
        return self._caller

    @property
    def job(self) -> Job | None:
        """The job's delivery in ``on_job``, else None."""
        self._check()
        return self._job

    @property
    def log(self) -> Logger:
        """Logger of this app."""
        self._check()
        return Logger(self)

    @property
    def db(self) -> BaseContext:
        """The same ``sql``, ``collection`` and ``transaction`` under one name."""
        self._check()
        return self

    # --- what it does ----------------------------------------------------------------------

    def emit(self, name: str, data: object = None) -> None:
        """Write an event to the app's log."""
        self._check()
        self._wire.send({"type": "event", "name": name, "data": {} if data is None else data})

    def sql(self, text: str, params: Sequence[object] = ()) -> Any:  # Any: Result or awaitable
        """Run one statement with ``$1``... parameters; returns a ``Result``."""
        return self._ask({"type": "sql_query", "sql": text, "params": list(params)}, Result)

    def collection(self, entity: str) -> Collection:
        """Return the records of one entity of the app's data contract."""
        self._check()
        return Collection(self, entity)

    def enqueue(self, payload: object, delay: int = 0) -> Any:  # Any: int or awaitable
        """Queue a job for this app, owned by the caller; returns its msg_id."""
        message: Message = {"type": "job_enqueue", "payload": payload}
        if delay:
            message["delay"] = delay
        return self._ask(message, lambda answer: answer.get("msg_id"))

    def self_action(self, action: str, params: object = None) -> Any:  # Any: JSON or awaitable
        """Run an action of the platform for the caller (contract part 30, 4.3)."""
        message = {"type": "self_action", "action": action, "params": params or {}}
        return self._ask(message, _result, forever=action in UNHURRIED)

    def action(self, name: str, input: object = None) -> Any:  # the contract's name
        """Run another action of this app for the same caller."""
        return self.self_action("triggerAction", {"actionName": name, "input": input})

    def call_integration(
        self,
        integration_id: str,
        action: str,
        input: object = None,  # the contract's name
        as_user: str | None = None,
    ) -> Any:  # Any: JSON or awaitable
        """Run an action of an integration that the caller bound to this app."""
        params = {"integrationId": integration_id, "action": action, "input": input}
        if as_user is not None:
            params["asUser"] = as_user
        return self.self_action("call_integration", params)

    def call_tool(self, name: str, args: object = None) -> Any:  # Any: JSON or awaitable
        """Use a tool in an agent run; waits as long as an approval takes.

        Raises:
            ToolError: the tool failed or was denied.
        """
        import uuid

        message = {
            "type": "agent_tool_call",
            "invoke_id": self._invoke_id,
            "call_id": str(uuid.uuid4()),
            "tool_name": name,
            "args": {} if args is None else args,
        }
        return self._ask(message, _result, forever=True)

    def agent_done(self, response: str, tokens: int | None = None) -> None:
        """Set the final text of an agent run; optional."""
        self._check()
        self._finished = {"response": response, "tokens": tokens}

    # --- inside ----------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        self._check()
        return self._session_data

    @property
    def _wire(self) -> Wire:
        return self._session_data.wire

    def _check(self) -> None:
        if self._over:
            raise CallOver(CALL_OVER)

    def _end(self) -> None:
        self._over = True

    def _ask(
        self, message: Message, decode: Callable[[Message], Any], *, forever: bool = False
    ) -> Any:  # Any: the value, or an awaitable of it
        raise NotImplementedError


class Context(BaseContext):
    """``ctx`` of ``def`` handlers: operations block."""

    def transaction(self) -> Transaction:
        """Return a context manager whose ``tx.sql`` runs in one transaction."""
        self._check()
        return Transaction(self)

    def upload_file(
        self, content: bytes | str, filename: str, content_type: str = "application/octet-stream"
    ) -> str:
        """Store a file; returns its id."""
        data = content.encode() if isinstance(content, str) else bytes(content)
        url = self._ask(_upload_message(filename, content_type, len(data)), _url)
        return post_file(self.runtime_url, url, data, content_type)

    def _ask(
        self, message: Message, decode: Callable[[Message], Any], *, forever: bool = False
    ) -> Any:  # Any: depends on the operation
        self._check()
        timeout = None if forever else self._wire.call_timeout_s
        try:
            return decode(self._wire.ask({**message, "call": self._call}, timeout))
        except Exception as exc:
            raise _for_tool(message, exc) from None


class Transaction:
    """``with ctx.transaction() as tx``: commit at the normal end, rollback on an exception."""

    def __init__(self, ctx: BaseContext) -> None:
        self._ctx = ctx
        self._tx_id: object = None

    def __enter__(self) -> Transaction:
        self._tx_id = self._ctx._ask({"type": "sql_begin"}, _tx_id)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ctx._ask(self._end(kind), _nothing)

    def sql(self, text: str, params: Sequence[object] = ()) -> Any:  # Any: Result or awaitable
        """Run one statement in the transaction."""
        message = {"type": "sql_exec", "tx_id": self._tx_id, "sql": text, "params": list(params)}
        return self._ctx._ask(message, Result)

    def _end(self, kind: object) -> Message:
        name = "sql_commit" if kind is None else "sql_rollback"
        return {"type": name, "tx_id": self._tx_id}


class Collection:
    """Records of one entity; every operation checks the caller's permissions."""

    def __init__(self, ctx: BaseContext, entity: str) -> None:
        self._ctx = ctx
        self._entity = entity

    def insert(self, data: Mapping[str, object]) -> Any:  # Any: record or awaitable
        """Store a record; returns it as stored."""
        return self._op("insert", data)

    def update(self, data: Mapping[str, object]) -> Any:  # Any: record or awaitable
        """Change the record ``data["id"]``; returns it as stored."""
        return self._op("update", data)

    def delete(self, id: str) -> Any:  # the contract's name
        """Delete a record; returns whether it was there."""
        return self._op("delete", {"id": id})

    def find(
        self,
        where: Mapping[str, object] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        order_by: Sequence[Sequence[str]] | None = None,
    ) -> Any:  # Any: list or awaitable
        """Return the records equal to ``where`` (None matches NULL)."""
        chosen = {"limit": limit, "offset": offset, "order_by": order_by}
        options = {name: value for name, value in chosen.items() if value is not None}
        return self._op("find", where or {}, options)

    def find_one(self, where: Mapping[str, object] | None = None) -> Any:  # Any: as find
        """Return one record equal to ``where``, or None."""
        return self._op("findOne", where or {})

    def _op(
        self, op: str, data: Mapping[str, object], options: Mapping[str, object] | None = None
    ) -> Any:  # Any: depends on the operation
        message: Message = {
            "type": "collection_op",
            "op": op,
            "entity": self._entity,
            "data": dict(data),
        }
        if options:
            message["options"] = dict(options)
        return self._ctx._ask(message, _result)


class Job:
    """One delivery of a job."""

    def __init__(self, ctx: BaseContext, message: Message) -> None:
        meta = message.get("meta") or {}
        self._ctx = ctx
        self.id: str = message["id"]
        self.read_ct: int | None = meta.get("read_ct")
        self.enqueued_at: str | None = meta.get("enqueued_at")
        self.source: str | None = meta.get("source")
        self.cron_id: str | None = meta.get("cron_id")

    def extend(self, seconds: int) -> Any:  # Any: bool or awaitable
        """Keep the job hidden for this many seconds from now, 1-3600."""
        message = {"type": "job_extend", "job_id": self.id, "seconds": seconds}
        return self._ctx._ask(message, lambda answer: answer.get("ok", True))

    def progress(self, fraction: float, note: str | None = None) -> Any:  # Any: as extend
        """Show how far the job is, 0-1, and in what."""
        message = {"type": "job_progress", "job_id": self.id, "progress": fraction}
        if note is not None:
            message["note"] = note
        return self._ctx._ask(message, lambda answer: answer.get("ok", True))


class Logger:
    """``ctx.log``: ``%``-style messages to the app's log."""

    def __init__(self, ctx: BaseContext) -> None:
        self._ctx = ctx

    def debug(self, message: object, *args: object) -> None:
        """Log at level debug."""
        self._write("debug", message, args)

    def info(self, message: object, *args: object) -> None:
        """Log at level info."""
        self._write("info", message, args)

    def warning(self, message: object, *args: object) -> None:
        """Log at level warn."""
        self._write("warn", message, args)

    warn = warning

    def error(self, message: object, *args: object) -> None:
        """Log at level error."""
        self._write("error", message, args)

    def _write(self, level: str, message: object, args: tuple[object, ...]) -> None:
        self._ctx._check()
        text = str(message) % args if args else str(message)
        self._ctx._wire.send({"type": "log", "level": level, "message": text[:8192]})


def post_file(runtime_url: str, url: str, data: bytes, content_type: str) -> str:
    """Send a file to its one-time address; returns its id. Blocking."""
    import urllib.parse
    import urllib.request

    target = urllib.parse.urljoin(runtime_url.rstrip("/") + "/", url)
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(target, data, headers, method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310  # the host's URL
        import json

        return str(json.load(response)["file_id"])


def _upload_message(name: str, content_type: str, size: int) -> Message:
    return {"type": "storage_upload", "name": name, "content_type": content_type, "size": size}


def _for_tool(message: Message, exc: Exception) -> Exception:
    """Turn the host's refusal of a tool call into ``ToolError``."""
    if message["type"] != "agent_tool_call" or isinstance(exc, CallOver):
        return exc
    return ToolError(str(exc))


def _result(answer: Message) -> Any:  # Any: JSON
    return answer.get("result")


def _url(answer: Message) -> str:
    return str(answer["url"])


def _tx_id(answer: Message) -> object:
    return answer.get("tx_id")


def _nothing(_answer: Message) -> None:
    return None
