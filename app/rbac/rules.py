"""Rules of roles that need no database, and the keys the platform itself knows.

Source: REST contract part 10, sections 7.3, 7.4 and 8.2.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from app.core.errors import Invalid
from app.core.permissions import is_key
from app.rbac.repository import ADMIN

TOOLS = (
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
BUILTIN_KEYS: Mapping[str, str] = {
    **{f"tool:{name}": f"use the tool {name}" for name in TOOLS},
    "platform:apps.create": "install apps of one's own",
    "admin:apps.install": "install, replace and uninstall any app or integration",
    "admin:apps.deploy": "upload the code of any app",
    "admin:agents.manage": "change and delete agents, read all their sessions",
    "admin:mcp.manage": "register, start and stop MCP servers, which may be programs",
    "admin:channels.manage": "create, delete and switch channels",
    "admin:secrets.manage": "manage the secrets of apps and of the platform",
    "admin:audit.read": "read the audit log",
    "storage:read": "read every bucket of the platform's storage",
    "storage:write": "store files in every bucket",
    "storage:delete": "delete files of every bucket",
    "storage:admin": "create and delete buckets",
    "admin:service_accounts.manage": "manage service accounts, their keys and who acts as them",
    "auth.invite": "make magic links that confer roles one holds oneself",
}


def check_role_name(name: str) -> None:
    """Refuse a name no role may have.

    Raises:
        Invalid: empty, too long, badly spelled or reserved.
    """
    if not name:
        raise Invalid("role name is required")
    if name == ADMIN:
        raise Invalid("role name 'admin' is reserved")
    controls = any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)
    if len(name) > 128 or "/" in name or name != name.strip() or controls:
        raise Invalid("invalid role name")


def check_keys(keys: Sequence[str]) -> None:
    """Refuse texts that are no permission keys.

    Raises:
        Invalid: names the first of them.
    """
    for key in keys:
        if not is_key(key):
            raise Invalid(f"invalid permission key '{key}'")


def check_no_cycle(graph: Mapping[str, Sequence[str]], name: str, parents: Sequence[str]) -> None:
    """Refuse parents that lead back to the role itself.

    Args:
        graph: stored roles and the names they inherit from; may contain cycles.
        name: the role being written.
        parents: what it shall inherit from.

    Raises:
        Invalid: the role would inherit from itself.
    """
    waiting = list(parents)
    seen: set[str] = set()
    while waiting:
        current = waiting.pop()
        if current == name:
            raise Invalid(f"role inheritance would form a cycle through '{name}'")
        if current not in seen:
            seen.add(current)
            waiting.extend(graph.get(current, ()))
