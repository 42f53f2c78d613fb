"""Tools for records.

Source: REST contract part 40, section 3.2.
"""

from __future__ import annotations

import json
from typing import Any

from app.agents.tools.base import JSONObject, Tool, ToolContext
from app.core.errors import Invalid, NotFound
from app.core.ids import UUID_TEXT, check_app_id
from app.data import service as data_service

PAGING = ("where", "orderBy", "order", "limit", "offset")
MAX_ROWS = 1000
ACTIONS = {
    "create": "create",
    "bulk_create": "create",
    "update": "update",
    "delete": "delete",
}
STAMPS = frozenset({"created_at", "updated_at"})

APP = {"type": "string", "description": "App id; the agent's own app if absent."}
ENTITY = {"type": "string", "description": "Name of the entity."}
WHERE = {
    "type": "object",
    "description": (
        "Filter: {field: value} is equality; {field: {$op: value}} with $eq $ne $gt $gte $lt $lte "
        "$like $ilike $in $nin $contains $isNull; $and and $or take arrays, $not an object; all "
        "keys of one object must hold."
    ),
}


def _query(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    paged = any(name in arguments for name in PAGING)
    body = {name: arguments[name] for name in PAGING if name in arguments}
    if not paged:
        body = {"limit": MAX_ROWS}
    with context.platform.uow() as uow:
        text = data_service.query(
            uow,
            context.actor,
            app_id=context.app(arguments),
            entity=arguments["entity"],
            body=body,
        )
    found = json.loads(text)
    return found if paged else found["data"]


def _may_query(context: ToolContext, arguments: JSONObject) -> None:
    context.actor.require(f"app:{_open_app(context, arguments)}:{arguments['entity']}.read")


def _open_app(context: ToolContext, arguments: JSONObject) -> str:
    return check_app_id(context.app(arguments))


def _may_mutate(context: ToolContext, arguments: JSONObject) -> None:
    app_id, entity = _open_app(context, arguments), arguments["entity"]
    context.actor.require(f"app:{app_id}:{entity}.{ACTIONS[arguments['action']]}")
    _checked(arguments)


def _checked(arguments: JSONObject) -> Any:  # Any: an object, an array or None
    """Return the data of a call once its shape is right."""
    action, data = arguments["action"], arguments.get("data")
    record_id = arguments.get("id")
    if action in {"update", "delete"} and (
        record_id is None or UUID_TEXT.fullmatch(record_id) is None
    ):
        raise Invalid("id must be a UUID")
    if action == "delete":
        return None
    if action == "bulk_create":
        if not isinstance(data, list) or not 1 <= len(data) <= MAX_ROWS:
            raise Invalid("bulk_create takes 1 to 1000 records")
        return [_writable(item) for item in data]
    written = _writable(data)
    if not set(written) - {"id"}:
        raise Invalid("data needs at least one writable field")
    return written


def _writable(data: Any) -> JSONObject:  # Any: a JSON value
    if not isinstance(data, dict):
        raise Invalid("data needs at least one writable field")
    return {name: value for name, value in data.items() if name not in STAMPS}


def _mutate(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    data = _checked(arguments)
    action, record_id = arguments["action"], arguments.get("id", "")
    place: JSONObject = {"app_id": context.app(arguments), "entity": arguments["entity"]}
    with context.platform.uow() as uow:
        try:
            if action == "create":
                return json.loads(data_service.create(uow, context.actor, body=data, **place))
            if action == "bulk_create":
                return json.loads(data_service.bulk(uow, context.actor, body=data, **place))
            if action == "update":
                return json.loads(
                    data_service.patch(uow, context.actor, record_id=record_id, body=data, **place)
                )
            data_service.delete(uow, context.actor, record_id=record_id, **place)
        except NotFound as exc:
            raise _no_record(exc, record_id) from exc
    return {"deleted": True, "id": record_id}


def _no_record(exc: NotFound, record_id: str) -> NotFound:
    return NotFound("record not found") if f"no record '{record_id}'" in exc.message else exc


QUERY_DATA = Tool(
    name="query_data",
    description=(
        "Read records of an entity. With any of where, orderBy, order, limit or offset the result "
        "is {data, total}; without them an array of the newest records."
    ),
    parameters={
        "properties": {
            "entity": ENTITY,
            "app": APP,
            "where": WHERE,
            "orderBy": {"type": "string", "description": "Field to sort by; default created_at."},
            "order": {"enum": ["asc", "desc"], "description": "Default desc."},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS},
            "offset": {"type": "integer", "minimum": 0},
        },
        "required": ["entity"],
    },
    run=_query,
    check=_may_query,
    read_only=True,
    with_entities=True,
)

MUTATE_DATA = Tool(
    name="mutate_data",
    description=(
        "Create, change or delete records of an entity. create and update take an object in data, "
        "bulk_create an array of 1 to 1000 objects (all or none); update and delete need id."
    ),
    parameters={
        "properties": {
            "entity": ENTITY,
            "action": {"enum": list(ACTIONS)},
            "app": APP,
            "data": {
                "type": ["object", "array"],
                "description": "Fields; an array for bulk_create.",
            },
            "id": {"type": "string", "description": "UUID of the record."},
        },
        "required": ["entity", "action"],
    },
    run=_mutate,
    check=_may_mutate,
    with_entities=True,
)
