"""Tools that show what is installed, and run what apps offer.

Source: REST contract part 40, section 3.2.
"""

from __future__ import annotations

import json
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any
from uuid import uuid4

from app.agents.tools.base import (
    JSONObject,
    Tool,
    ToolContext,
    require_app,
    touches_app,
)
from app.apps import service as apps_service
from app.core import json_schema
from app.core.errors import Failed, Invalid, NotFound
from app.workers import rpc
from workers_runtime.protocol import CallKind


def _list_apps(context: ToolContext, _arguments: JSONObject) -> Any:  # Any: a JSON value
    with context.platform.uow() as uow:
        return [
            {"id": app.id, "name": app.name, "entities": app.entities}
            for app in apps_service.list_apps(uow.session)
            if touches_app(context.permissions, app.id)
        ]


def _may_describe(context: ToolContext, arguments: JSONObject) -> None:
    require_app(context, arguments["app"])


def _describe_app(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    app_id = arguments["app"]
    with context.platform.uow() as uow:
        if not apps_service.exists(uow.session, app_id):
            raise NotFound(f"app '{app_id}' not found")
        found = apps_service.detail(uow.session, app_id)
    return {"app": found.id, "name": found.name, "dataContract": found.data_contract}


def _list_actions(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    wanted = arguments.get("app")
    result: list[JSONObject] = []
    with context.platform.uow() as uow:
        for app in apps_service.list_apps(uow.session):
            if wanted not in {None, app.id} or app.type == "integration":
                continue
            manifest = apps_service.manifest_of(uow.session, app.id)
            actions = [
                action
                for action in manifest.get("actions") or ()
                if context.permissions.match(f"app:{app.id}:action:{action['id']}")
            ]
            if actions:
                entry: JSONObject = {"appId": app.id, "name": app.name, "actions": actions}
                if manifest.get("instructions"):
                    entry["instructions"] = manifest["instructions"]
                result.append(entry)
    return result


def _may_call(context: ToolContext, arguments: JSONObject) -> None:
    context.actor.require(f"app:{arguments['app']}:action:{arguments['action']}")
    _action(context, arguments)


def _action(context: ToolContext, arguments: JSONObject) -> JSONObject:
    """Return the action a call means once its input fits.

    Raises:
        NotFound: no such app or action, or the app is an integration.
        Invalid: the input does not fit the action's schema.
    """
    app_id, wanted = arguments["app"], arguments["action"]
    with context.platform.uow() as uow:
        if not apps_service.exists(uow.session, app_id):
            raise NotFound(f"app '{app_id}' not found")
        manifest = apps_service.manifest_of(uow.session, app_id)
    if manifest.get("type") == "integration":
        raise NotFound(f"app '{app_id}' is an integration; use call_integration")
    for action in manifest.get("actions") or ():
        if action["id"] == wanted:
            if action.get("inputSchema"):
                json_schema.check(action["inputSchema"], arguments.get("input") or {}, "input")
            found: JSONObject = action
            return found
    raise NotFound(f"action '{wanted}' not found in app '{app_id}'")


def _call_action(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    action = _action(context, arguments)
    app_id, given = arguments["app"], arguments.get("input") or {}
    if context.host is None:
        key = f"app:{app_id}:action:{action['id']}"
        answer = rpc.call(
            context.platform,
            context.caller,
            app_id=app_id,
            method=action["id"],
            params=given,
            key=key,
            authorize=lambda: context.caller.require(key),
        )
        return json.loads(answer)
    message = {"id": uuid4().hex, "method": action["id"], "params": given}
    future = context.host.call(
        app_id, CallKind.RPC, message, actor=context.caller, lifetime_s=context.limit_s
    )
    try:
        outcome = future.result(context.limit_s + 5)
    except FutureTimeout as exc:
        raise Failed("tool timed out") from exc
    if not outcome.ok:
        raise Failed(outcome.error)
    return outcome.value


def _may_invoke(context: ToolContext, arguments: JSONObject) -> None:
    if context.invoke_agent is None:
        raise Invalid("invoke_agent only works inside an agent run")
    if arguments["app_id"] == context.app_id:
        raise Invalid("an agent cannot invoke itself")
    context.actor.require(f"app:{arguments['app_id']}:invoke")


def _invoke_agent(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    if context.invoke_agent is None:
        raise Invalid("invoke_agent only works inside an agent run")
    return context.invoke_agent(arguments["app_id"], arguments["message"])


LIST_APPS = Tool(
    name="list_apps",
    description="List the apps you may use, with their entities.",
    parameters={"properties": {}},
    run=_list_apps,
    read_only=True,
)
DESCRIBE_APP = Tool(
    name="describe_app",
    description="Show an app's entities with all their fields.",
    parameters={"properties": {"app": {"type": "string"}}, "required": ["app"]},
    run=_describe_app,
    check=_may_describe,
    read_only=True,
)
LIST_ACTIONS = Tool(
    name="list_actions",
    description="List the actions that apps offer, with the schema of their input.",
    parameters={"properties": {"app": {"type": "string", "description": "Only this app."}}},
    run=_list_actions,
    read_only=True,
)
CALL_ACTION = Tool(
    name="call_action",
    description="Run an action of an app; see list_actions.",
    parameters={
        "properties": {
            "app": {"type": "string"},
            "action": {"type": "string", "description": "The action's id."},
            "input": {"type": "object"},
        },
        "required": ["app", "action"],
    },
    run=_call_action,
    check=_may_call,
)
INVOKE_AGENT = Tool(
    name="invoke_agent",
    description="Ask the agent of another app and wait for its answer.",
    parameters={
        "properties": {
            "app_id": {"type": "string"},
            "message": {"type": "string", "minLength": 1},
        },
        "required": ["app_id", "message"],
    },
    run=_invoke_agent,
    check=_may_invoke,
)
