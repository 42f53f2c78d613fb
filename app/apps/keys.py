"""Permission keys an app brings.

Source: REST contract part 20, section 3.5; part 10, section 7.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CRUD = {
    "create": "create records of",
    "read": "read records of",
    "update": "change records of",
    "delete": "delete records of",
}
ALWAYS = {
    "invoke": "call, enqueue jobs, talk to the agent",
    "cron.read": "list crons",
    "cron.write": "create, change and delete crons",
    "cron.trigger": "fire crons",
    "cron.manage_others": "manage crons of other owners",
    "hook.read": "list hooks",
    "hook.write": "create and delete hooks",
    "logs.read": "read worker logs",
    "webhook.read": "list webhooks",
}


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON values
    """Return every key of an app with its description."""
    app_id = manifest["appId"]
    keys: dict[str, str] = {}
    for entity in manifest["dataContract"]:
        name = entity["entityName"]
        keys |= {
            f"app:{app_id}:{name}.{a}": f"{text} {name} ({app_id})" for a, text in CRUD.items()
        }
    keys |= {f"app:{app_id}:{key}": f"{text} ({app_id})" for key, text in ALWAYS.items()}
    for declared in manifest.get("permissions", {}).get("permissions", ()):
        keys[f"app:{app_id}:{declared['key']}"] = declared["description"]
    for action in manifest["actions"]:
        keys[f"app:{app_id}:action:{action['id']}"] = f"{action['name']} ({app_id})"
    if manifest["type"] == "integration":
        for action in manifest["actions"]:
            keys[f"integration:{app_id}:{action['id']}"] = f"{action['name']} ({app_id})"
        keys[f"integration:{app_id}:manage"] = f"manage shared connections ({app_id})"
    return keys
