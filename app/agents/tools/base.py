"""What a tool is.

Source: REST contract part 40, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry

from app.agents.providers.base import ToolSpec
from app.core.actor import Actor
from app.core.errors import Failed, Forbidden, Invalid
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.workers.service import WorkerHost

JSONObject = dict[str, Any]  # Any: JSON values
TIMEOUT_S = 30.0

InvokeAgent = Callable[[str, str], JSONObject]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """On whose behalf and from where a tool is used.

    Attributes:
        app_id: the app the call is made for; the default of every ``app`` argument.
        actor: whose rights data access has; its permissions are the effective ones.
        caller: who calls actions of apps; the same permissions.
        host: this process's node; None in a web process.
        invoke_agent: starts a sub-agent; None outside agent runs.
        limit_s: seconds the call may take.
    """

    platform: Platform
    app_id: str
    actor: Actor
    caller: Actor
    host: WorkerHost | None = None
    invoke_agent: InvokeAgent | None = None
    limit_s: float = TIMEOUT_S

    @property
    def permissions(self) -> Permissions:
        """The effective permissions."""
        return self.actor.permissions

    def app(self, arguments: JSONObject) -> str:
        """Return the app a call is about."""
        return str(arguments.get("app") or self.app_id)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Attributes:
        check: raises ``Forbidden`` or ``Invalid`` for calls that could never run.
        run: does the work; returns a JSON value.
        read_only: whether an interrupted call may simply be made again.
        with_entities: whether the description lists the app's entities.
        foreign: of an MCP server: the invoker needs the permission to use it as well.
    """

    name: str
    description: str
    parameters: JSONObject
    run: Callable[[ToolContext, JSONObject], Any]  # Any: a JSON value
    check: Callable[[ToolContext, JSONObject], None] = field(default=lambda _context, _args: None)
    read_only: bool = False
    with_entities: bool = False
    foreign: bool = False

    @property
    def key(self) -> str:
        """The permission to use this tool at all."""
        return tool_key(self.name)

    @property
    def schema(self) -> JSONObject:
        """JSON Schema of the arguments."""
        return {"type": "object", **self.parameters}

    def spec(self, extra: str = "") -> ToolSpec:
        """Return the tool as a model sees it."""
        return ToolSpec(self.name, self.description + extra, self.schema)

    def validate(self, arguments: Any) -> JSONObject:  # Any: a JSON value
        """Return arguments that fit the schema.

        Raises:
            Invalid: they do not; the text names the place.
        """
        check_schema(self.schema, arguments, "args")
        checked: JSONObject = arguments
        return checked


def tool_key(name: str) -> str:
    """Return the permission to use a tool; keys have no upper case and no ``-``."""
    return "tool:" + re.sub(r"[^a-z0-9_]", "_", name.lower())


def check_schema(schema: JSONObject, value: Any, label: str) -> None:  # Any: a JSON value
    """Refuse a value that does not fit a JSON Schema.

    Raises:
        Invalid: the text names the place and the rule.
        Failed: the schema itself is broken.
    """
    # With an empty registry no ``$ref`` makes the library fetch an address that an app names.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        error = best_match(validator.iter_errors(value))
    except Exception as exc:
        # Unknown types, bad patterns, endless references: the library has no common error.
        raise Failed(f"{label}: the schema it must fit is not valid") from exc
    if error is not None:
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
        raise Invalid(f"{label}{place}: {error.message[:500]}")


def touches_app(permissions: Permissions, app_id: str) -> bool:
    """Tell whether some grant is about an app."""
    prefix = f"app:{app_id}:"
    return permissions.everything or any(
        key.startswith(prefix) or (key.endswith(":*") and prefix.startswith(key[:-1]))
        for key in permissions.keys
    )


def require_app(context: ToolContext, app_id: str) -> None:
    """Raise ``Forbidden`` unless some effective permission is about the app."""
    if not touches_app(context.permissions, app_id):
        raise Forbidden(f"missing permission: app:{app_id}:*")
