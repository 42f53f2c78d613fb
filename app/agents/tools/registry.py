"""The tools there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.agents.tools import apps, data, integrations
from app.agents.tools.base import Tool

BUILT_IN: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        data.QUERY_DATA,
        data.MUTATE_DATA,
        integrations.LIST_INTEGRATIONS,
        integrations.CALL_INTEGRATION,
        apps.LIST_APPS,
        apps.DESCRIBE_APP,
        apps.LIST_ACTIONS,
        apps.CALL_ACTION,
        apps.INVOKE_AGENT,
    )
}
NAMES = (
    "query_data",
    "mutate_data",
    "list_apps",
    "describe_app",
    "list_integrations",
    "call_integration",
    "invoke_agent",
    "list_actions",
    "call_action",
)
"""The nine tools every agent's first role names."""


def describe_entities(data_contract: Sequence[Mapping[str, Any]]) -> str:  # Any: JSON values
    """Return an app's entities as lines for a model."""
    lines = ["", "", "Entities of this app:"]
    lines.extend(
        f"- {entity['entityName']}: " + ", ".join(map(_field, entity["fields"]))
        for entity in data_contract
    )
    return "\n".join(lines) if data_contract else ""


def _field(field: Mapping[str, Any]) -> str:  # Any: JSON values
    notes = [str(field["type"])]
    if field.get("required"):
        notes.append("required")
    if field.get("enum_values"):
        notes.append("one of " + "|".join(map(str, field["enum_values"])))
    target = field.get("references")
    if isinstance(target, Mapping):
        notes.append(f"id of {target.get('entity')}")
    return f"{field['name']} ({', '.join(notes)})"
