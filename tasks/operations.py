"""What app processes may ask of the platform while they work on a call.

Each operation runs on a thread of the node, in a transaction of its own, through the same
services as the HTTP edge, with the rights of the call it names.

Source: REST contract part 30, sections 4.3 and 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import structlog
from marshmallow import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.apps import service as apps_service
from app.core import database_errors
from app.core.actor import Actor, Source
from app.core.errors import AppError, Failed, Forbidden, Invalid, NotFound
from app.data import service as data_service
from app.files import service as files_service
from app.integrations import service as integrations_service
from app.jobs import service as jobs_service
from tasks.calls import OpenCall
from workers_runtime.client import Reply
from workers_runtime.protocol import JSON, CallKind, JSONObject

if TYPE_CHECKING:
    from tasks.node import Node

log = structlog.get_logger(__name__)

ANSWER_MARGIN_S: Final = 5.0

Operation = Callable[["Node", OpenCall, JSONObject], JSONObject]


def perform(node: Node, call: OpenCall, message: JSONObject, reply: Reply) -> None:
    """Carry out one operation and answer it, whatever happens."""
    operation = OPERATIONS.get(str(message.get("type")))
    if operation is None:
        reply({"error": f"unsupported operation: {message.get('type')}"})
        return
    if call.over:
        reply({"error": "call is over"})
        return
    try:
        answer = operation(node, call, message)
    except AppError as exc:
        answer = {"error": exc.message}
    except ValidationError as exc:
        answer = {"error": str(exc.messages)}
    except SQLAlchemyError as exc:
        known = database_errors.translate(exc, {})
        if known is None:
            log.exception("operation_failed", operation=message.get("type"), app_id=call.app_id)
        answer = {"error": "internal error" if known is None else known.message}
    except Exception:
        log.exception("operation_failed", operation=message.get("type"), app_id=call.app_id)
        answer = {"error": "internal error"}
    reply(answer)


def _collection_op(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    options = message.get("options")
    with node.platform.uow() as uow:
        result = data_service.collection_op(
            uow,
            None if call.actor is None else call.actor.via(Source.COLLECTION),
            app_id=call.app_id,
            op=_text(message, "op"),
            entity=_text(message, "entity"),
            data=message.get("data"),
            options=options if isinstance(options, dict) else {},
            unrestricted=call.unrestricted,
        )
    return {"result": result}


def _job_enqueue(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    actor = _user(call, "enqueue requires an authenticated caller")
    delay = message.get("delay") or 0
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise Invalid("delay must be a number of seconds")
    with node.platform.uow() as uow:
        made = jobs_service.enqueue(
            uow,
            actor,
            app_id=call.app_id,
            payload=message.get("payload", {}),
            delay_s=int(delay),
            source="worker",
        )
    return {"msg_id": made.msg_id}


def _own_job(call: OpenCall, message: JSONObject, what: str) -> int:
    """Return the id of the job a call works on; an operation names no other."""
    job_id = str(message.get("job_id", ""))
    if call.kind is not CallKind.JOB or str(call.message.get("id")) != job_id:
        raise Forbidden(f"only the job of this call can {what}")
    return int(job_id)


def _job_extend(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    msg_id = _own_job(call, message, "be extended")
    seconds = message.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Invalid("seconds must be 1-3600")
    with node.platform.uow() as uow:
        jobs_service.extend(uow, app_id=call.app_id, msg_id=msg_id, seconds=seconds)
    return {"ok": True}


def _job_progress(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    msg_id = _own_job(call, message, "show progress")
    fraction, note = message.get("progress"), message.get("note")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise Invalid("progress must be 0-1")
    if note is not None and not isinstance(note, str):
        raise Invalid("field 'note' must be a string")
    with node.platform.uow() as uow:
        jobs_service.note_progress(
            uow, app_id=call.app_id, msg_id=msg_id, progress=fraction, note=note
        )
    return {"ok": True}


def _self_action(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    actor = _user(call, "self_action requires an authenticated caller")
    given = message.get("params")
    params = given if isinstance(given, dict) else {}
    match message.get("action"):
        case "triggerAction":
            return {"result": _trigger_action(node, call, actor, params)}
        case "call_integration":
            return {"result": _call_integration(node, call, actor, params)}
        case "syncConnectedUsers":
            return {
                "result": integrations_service.sync_connected_users(
                    node.platform,
                    actor,
                    integration_id=call.app_id,
                    action_id=_text(params, "actionName"),
                    host=node,
                )
            }
    raise Invalid(f"unsupported action: {message.get('action')}")


def _trigger_action(node: Node, call: OpenCall, actor: Actor, params: JSONObject) -> JSON:
    name = _text(params, "actionName")
    with node.platform.uow.reading() as session:
        actions = apps_service.manifest_of(session, call.app_id).get("actions") or ()
    if all(action["id"] != name for action in actions):
        raise NotFound(f"action '{name}' not found in app '{call.app_id}'")
    actor.require(f"app:{call.app_id}:action:{name}")
    sent: JSONObject = {"id": uuid4().hex, "method": name, "params": params.get("input") or {}}
    limit_s = node.platform.settings.workers.rpc_timeout.total_seconds()
    outcome = node.call(call.app_id, CallKind.RPC, sent, actor=actor, lifetime_s=limit_s).result(
        limit_s + ANSWER_MARGIN_S
    )
    if not outcome.ok:
        raise Failed(outcome.error)
    return outcome.value


def _call_integration(node: Node, call: OpenCall, actor: Actor, params: JSONObject) -> JSON:
    as_user = params.get("asUser")
    if as_user is not None and as_user != str(actor.user_id):
        raise Forbidden("acting for another principal is not allowed")
    return integrations_service.execute_action(
        node.platform,
        actor,
        integration_id=_text(params, "integrationId"),
        action_id=_text(params, "action"),
        given=params.get("input") or {},
        app_id=call.app_id,
        must_be_bound=True,
        host=node,
    )


def _storage_upload(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    size = message.get("size") or 0
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise Invalid("size must be a number of bytes")
    given = message.get("content_type")
    with node.platform.uow() as uow:
        path = files_service.upload_path(
            uow,
            None if call.actor is None else call.actor.user_id,
            app_id=call.app_id,
            name=_text(message, "name"),
            content_type=given if isinstance(given, str) else "",
            size=size,
        )
    return {"url": node.platform.settings.http.public_url.rstrip("/") + path}


def _user(call: OpenCall, otherwise: str) -> Actor:
    """Return the caller of a call; there must be one."""
    if call.actor is None or call.actor.user_id is None:
        raise Forbidden(otherwise)
    return replace(call.actor)


def _text(message: JSONObject, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise Invalid(f"field '{name}' must be a string")
    return value


def _sql_query(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    return node.sql.query(call, message)


def _sql_begin(node: Node, call: OpenCall, _message: JSONObject) -> JSONObject:
    return node.sql.begin(call)


def _sql_exec(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    return node.sql.execute(call, message)


def _sql_commit(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    return node.sql.commit(call, message)


def _sql_rollback(node: Node, call: OpenCall, message: JSONObject) -> JSONObject:
    return node.sql.rollback(call, message)


SLOW: Final = "self_action"
"""The operation that waits for other app processes; it has threads of its own."""

OPERATIONS: Mapping[str, Operation] = {
    SLOW: _self_action,
    "collection_op": _collection_op,
    "job_enqueue": _job_enqueue,
    "job_extend": _job_extend,
    "storage_upload": _storage_upload,
    "job_progress": _job_progress,
    "sql_query": _sql_query,
    "sql_begin": _sql_begin,
    "sql_exec": _sql_exec,
    "sql_commit": _sql_commit,
    "sql_rollback": _sql_rollback,
}
"""Operation by message type. Logs and events never come here: the runtime handles them."""
