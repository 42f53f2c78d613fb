"""Which calls are refused for now, which need a person's consent.

Source: REST contract part 40, section 1.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.agents.definition import window_seconds

JSONObject = Mapping[str, Any]  # Any: JSON values

STRICT_REASON = "strict mode: every tool call needs approval"
ACTIONS = {"query_data": "query", "mutate_data": "mutate"}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit that applies to a call, and which earlier calls count against it.

    Attributes:
        action: None = any.
        entity: None = any.
    """

    most: int
    window_s: int
    action: str | None
    entity: str | None


def action_of(tool: str) -> str:
    """Return the word policies use for a tool."""
    return ACTIONS.get(tool, tool)


def entity_of(arguments: Any) -> str | None:  # Any: a JSON value
    """Return the entity a call names."""
    entity = arguments.get("entity") if isinstance(arguments, Mapping) else None
    return entity if isinstance(entity, str) else None


def matches(policy: JSONObject, action: str, entity: str | None) -> bool:
    """Tell whether a policy is about a call."""
    if policy["action"] not in {"*", action}:
        return False
    wanted = policy.get("entity")
    return wanted is None or wanted == entity


def rate_limits(policies: Sequence[JSONObject], action: str, entity: str | None) -> list[RateLimit]:
    """Return the limits that apply to a call."""
    found = []
    for policy in policies:
        limit = policy.get("rateLimit")
        if limit is None or not matches(policy, action, entity):
            continue
        wanted = policy["action"]
        found.append(
            RateLimit(
                most=limit["max"],
                window_s=window_seconds(str(limit["window"])) or 1,
                action=None if wanted == "*" else wanted,
                entity=policy.get("entity"),
            )
        )
    return found


def consent_reason(supervision: JSONObject, action: str, entity: str | None) -> str | None:
    """Return why a call needs approval, or None when it does not."""
    mode = supervision["mode"]
    if mode == "strict":
        return STRICT_REASON
    if mode != "supervised":
        return None
    for policy in supervision["policies"]:
        if policy.get("requires") == "approval" and matches(policy, action, entity):
            about = f" on {policy['entity']}" if policy.get("entity") else ""
            return f"policy: {policy['action']}{about} needs approval"
    return None
