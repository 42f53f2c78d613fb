"""The manifest: validation and the normalised form that is stored.

Source: REST contract part 20, sections 3.1, 3.5 to 3.10 and 3.12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.apps.cron_rules import normalise_crons
from app.core.errors import Invalid
from app.core.permissions import is_key
from app.data.service import Node, distinct, identifier, parse_contract, storable

JSONObject = dict[str, Any]  # Any: JSON values

RESERVED = {"core", "public", "trellis", "information_schema", "pgmq", "cron"}
TYPES = ("app", "integration", "agent")
OPERATIONS = ("insert", "update", "delete")
COLLECTION_ACTIONS = ("list", "read", "create", "update", "delete")


def is_reserved(app_id: str) -> bool:
    """Tell whether no app may have this id."""
    return app_id in RESERVED or app_id.startswith("pg_")


def app_id_of(body: Any) -> str:  # Any: a JSON value
    """Return the app id of a manifest, which is checked before anything else.

    Raises:
        Invalid: not an object, or the id breaks R1, R2 or R3.
    """
    if not isinstance(body, dict):
        raise Invalid("manifest must be a JSON object")
    app_id = Node(body).required("appId", str)
    if is_reserved(app_id):
        raise Invalid(f"app id '{app_id}' is reserved")
    return identifier(app_id, "appId")


def normalise(body: Mapping[str, Any]) -> JSONObject:  # Any: JSON values
    """Return the normalised manifest.

    Defaults are filled in, aliases resolved, unknown keys dropped.

    Raises:
        Invalid: the first broken rule.
    """
    storable(body)
    node = Node(body)
    manifest: JSONObject = {
        "appId": app_id_of(body),
        "name": node.text("name"),
        "version": node.optional("version", str, "0.0.1"),
        "description": node.optional("description", str, ""),
        "type": node.optional("type", str, "app"),
    }
    if manifest["type"] not in TYPES:
        raise Invalid("type must be 'app', 'integration' or 'agent'")
    kept = {
        "icon": node.maybe("icon", str),
        "configSchema": node.maybe("configSchema", dict),
        "userAuth": node.maybe("userAuth", dict),
        "instructions": node.maybe("instructions", str),
    }
    manifest.update({key: value for key, value in kept.items() if value is not None})
    manifest["dataContract"] = parse_contract(body)
    manifest.update(_permissions(node))
    manifest["actions"] = _actions(node)
    manifest["crons"] = normalise_crons(node)
    manifest["webhooks"] = _webhooks(node)
    manifest.update(_trigger(node))
    manifest.update(_public(node, manifest["dataContract"]))
    return manifest


def _key(text: str) -> str:
    if not is_key(text):
        raise Invalid(f"'{text}': only a-z, 0-9, '_', ':', '.', '*' allowed")
    return text


def _permissions(node: Node) -> JSONObject:
    body = node.maybe("permissions", dict)
    if body is None:
        return {}
    keys = [
        {
            "key": _key(item.required("key", str)),
            "description": item.optional("description", str, ""),
        }
        for item in Node(body, "permissions").objects("permissions")
    ]
    return {"permissions": {"permissions": keys}}


def _actions(node: Node) -> list[JSONObject]:
    actions = []
    for item in node.objects("actions"):
        action: JSONObject = {
            "id": _key(item.required("id", str)),
            "name": item.text("name"),
            "description": item.optional("description", str, ""),
        }
        for schema in ("inputSchema", "outputSchema"):
            value = item.maybe(schema, dict)
            if value is not None:
                action[schema] = value
        connected = item.maybe("requiresConnection", bool)
        if connected is not None:
            action["requiresConnection"] = connected
        actions.append(action)
    distinct([action["id"] for action in actions], "action")
    return actions


def _webhooks(node: Node) -> list[JSONObject]:
    webhooks = []
    for position, item in enumerate(node.optional("webhooks", list, [])):
        body = {"name": item} if isinstance(item, str) else item
        if not isinstance(body, dict):
            raise Invalid(f"manifest: 'webhooks[{position}]' must be a string or an object")
        webhooks.append(_webhook(Node(body, f"webhooks[{position}]")))
    distinct([webhook["name"] for webhook in webhooks], "webhook")
    return webhooks


def _webhook(entry: Node) -> JSONObject:
    webhook: JSONObject = {
        "name": entry.text("name"),
        "method": entry.optional("method", str, "POST"),
    }
    if webhook["method"].startswith("__"):
        raise Invalid(f"webhook '{webhook['name']}': method '{webhook['method']}' is reserved")
    if entry.optional("durable", bool, False):
        webhook["durable"] = True
    return webhook


def _trigger(node: Node) -> JSONObject:
    body = node.maybe("trigger", dict)
    if body is None:
        return {}
    trigger = Node(body, "trigger")
    operations: list[str] = []
    for value in trigger.required("on", list):
        operation = value.lower() if isinstance(value, str) else ""
        if operation not in OPERATIONS:
            raise Invalid(f"trigger: '{value}' is not insert, update or delete")
        if operation not in operations:
            operations.append(operation)
    if not operations:
        raise Invalid("manifest: 'trigger.on' is required")
    target = {"appId": trigger.text("appId"), "entity": trigger.text("entity")}
    return {"trigger": {**target, "on": operations}}


def _public(node: Node, entities: list[JSONObject]) -> JSONObject:
    body = node.maybe("public", dict)
    if body is None:
        return {}
    public = Node(body, "public")
    rpcs = [
        {"name": item.text("name"), "scope": _texts(item, "scope")}
        for item in public.objects("rpcs")
    ]
    names = [rpc["name"] for rpc in rpcs]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(f"public: duplicate rpc '{name}'")
    known = {entity["entityName"] for entity in entities}
    collections = [_public_collection(item, known) for item in public.objects("collections")]
    return {"public": {"rpcs": rpcs, "collections": collections}}


def _public_collection(item: Node, known: set[str]) -> JSONObject:
    entity = item.text("entity")
    if entity not in known:
        raise Invalid(f"public: unknown entity '{entity}'")
    actions = _texts(item, "actions")
    for action in actions:
        if action not in COLLECTION_ACTIONS:
            raise Invalid(f"public: unknown action '{action}'")
    return {"entity": entity, "actions": actions}


def public_actions(normalised: Mapping[str, Any]) -> dict[str, list[str]]:  # Any: JSON values
    """Return the actions of a normalised manifest that need no token, by entity."""
    listed: dict[str, list[str]] = {}
    for collection in normalised.get("public", {}).get("collections", ()):
        listed.setdefault(collection["entity"], []).extend(collection["actions"])
    return listed


def _texts(node: Node, key: str) -> list[str]:
    values = node.optional(key, list, [])
    if not all(isinstance(value, str) for value in values):
        raise Invalid(f"public: {key} must be an array of strings, not {json.dumps(values)}")
    return values
