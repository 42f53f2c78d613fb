"""Tools that reach services outside, through integrations.

Source: REST contract part 40, section 3.2.
"""

from __future__ import annotations

from typing import Any

from app.agents.tools.base import JSONObject, Tool, ToolContext
from app.core.actor import Kind
from app.integrations import service as integrations_service


def _list_integrations(context: ToolContext, _arguments: JSONObject) -> Any:  # Any: a JSON value
    with context.platform.uow.reading() as session:
        return integrations_service.list_permitted(session, context.permissions)


def _may_call(context: ToolContext, arguments: JSONObject) -> None:
    context.actor.require(f"integration:{arguments['integration_id']}:{arguments['action']}")


def _call_integration(context: ToolContext, arguments: JSONObject) -> Any:  # Any: a JSON value
    is_agent = context.actor.kind is Kind.AGENT
    return integrations_service.execute_action(
        context.platform,
        context.caller,
        integration_id=arguments["integration_id"],
        action_id=arguments["action"],
        given=arguments.get("input") or {},
        app_id=context.app_id,
        agent_user_id=context.actor.user_id if is_agent else None,
        host=context.host,
    )


LIST_INTEGRATIONS = Tool(
    name="list_integrations",
    description="List the integrations you may use, with their actions and their input's schema.",
    parameters={"properties": {}},
    run=_list_integrations,
    read_only=True,
)
CALL_INTEGRATION = Tool(
    name="call_integration",
    description=(
        "Run an action of an integration; see list_integrations. A failure at the service behind "
        "it is a result with ok: false."
    ),
    parameters={
        "properties": {
            "integration_id": {"type": "string"},
            "action": {"type": "string", "description": "The action's id."},
            "input": {"type": "object"},
        },
        "required": ["integration_id", "action"],
    },
    run=_call_integration,
    check=_may_call,
)
