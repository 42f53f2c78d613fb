"""Wire shapes of agents, sessions, approvals, models and tools.

Source: REST contract part 40; names are its own, in whatever case it writes them.
"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields

from app.agents.attachments import MAX_FILES
from app.http.schemas import UTCDateTime, WireSchema

FILE_IDS = f"file_ids must be an array of at most {MAX_FILES} file UUIDs"


class FileIds(fields.List[Any]):
    """At most ten UUIDs; one text for everything that is wrong."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        try:
            ids = super()._deserialize(value, attr, data, **kwargs)
        except ValidationError as exc:
            raise ValidationError(FILE_IDS) from exc
        if len(ids) > MAX_FILES:
            raise ValidationError(FILE_IDS)
        return list(dict.fromkeys(ids))


class AgentInvoke(WireSchema):
    """A message to an agent."""

    message = fields.Str(required=True)
    session_id = fields.UUID(
        load_default=None, error_messages={"invalid_uuid": "session_id must be a UUID"}
    )
    file_ids = FileIds(fields.UUID(), load_default=list)


class AgentOut(Schema):
    """An agent."""

    app_id = fields.Str()
    name = fields.Str()
    description = fields.Str(allow_none=True)
    config = fields.Dict()
    user_id = fields.UUID()


class AgentPatch(WireSchema):
    """Changes of an agent; a null description clears it."""

    nullable = frozenset({"description"})

    name = fields.Str()
    description = fields.Str(allow_none=True)


class AgentStatusOut(Schema):
    """``{"status": "..."}``."""

    status = fields.Str()


class AgentSessionRow(Schema):
    """A session in a list."""

    id = fields.UUID()
    title = fields.Str(allow_none=True)
    status = fields.Str()
    total_tokens = fields.Int()
    turn_count = fields.Int()
    user_id = fields.UUID(allow_none=True)
    created_at = UTCDateTime()
    updated_at = UTCDateTime()


class AgentSessionOut(Schema):
    """A session with its messages."""

    id = fields.UUID(attribute="session.id")
    title = fields.Str(attribute="session.title", allow_none=True)
    status = fields.Str(attribute="session.status")
    total_tokens = fields.Int(attribute="session.total_tokens", data_key="totalTokens")
    turn_count = fields.Int(attribute="session.turn_count", data_key="turnCount")
    messages = fields.List(fields.Dict())
    created_at = UTCDateTime(attribute="session.created_at", data_key="createdAt")
    updated_at = UTCDateTime(attribute="session.updated_at", data_key="updatedAt")


class ApprovalOut(Schema):
    """An open question."""

    id = fields.UUID(data_key="approvalId")
    app_id = fields.Str(data_key="appId")
    session_id = fields.UUID(data_key="sessionId")
    run_id = fields.UUID(data_key="invokeId")
    call_id = fields.UUID(data_key="callId")
    tool_name = fields.Str(data_key="toolName")
    args = fields.Raw()
    reason = fields.Str()
    created_at = UTCDateTime(data_key="createdAt")
    expires_at = UTCDateTime(data_key="expiresAt")
    invoker_id = fields.UUID(data_key="invokerId", allow_none=True)


class ApprovalDecision(WireSchema):
    """An answer to an approval."""

    action = fields.Raw(load_default=None)
    reason = fields.Str(load_default=None)


class LLMModelIn(WireSchema):
    """A language model to register."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    provider = fields.Str(required=True)
    model = fields.Str(required=True)
    config = fields.Dict(keys=fields.Str(), load_default=dict)
    is_default = fields.Bool(load_default=False, truthy={True}, falsy={False})


class LLMModelReplacement(WireSchema):
    """A language model's new description; an ``id`` in it is ignored."""

    name = fields.Str(required=True)
    provider = fields.Str(required=True)
    model = fields.Str(required=True)
    config = fields.Dict(keys=fields.Str(), load_default=dict)
    is_default = fields.Bool(load_default=False, truthy={True}, falsy={False})


class LLMModelOut(Schema):
    """A registered language model."""

    id = fields.Str()
    name = fields.Str()
    provider = fields.Str()
    model = fields.Str()
    config = fields.Dict()
    is_default = fields.Bool()


class MCPServerIn(WireSchema):
    """An MCP server to register."""

    name = fields.Str(required=True)
    transport = fields.Dict(required=True, keys=fields.Str())
    env = fields.Dict(load_default=None, keys=fields.Str())
    auto_start = fields.Bool(load_default=False, truthy={True}, falsy={False}, data_key="autoStart")


class MCPServerOut(Schema):
    """A registered MCP server."""

    name = fields.Str()
    config = fields.Dict()
    status = fields.Str()
    error = fields.Str()


class MCPStatusOut(Schema):
    """How a server is after a request; its tools while it runs."""

    name = fields.Str()
    status = fields.Str()
    tools = fields.List(fields.Str())


class MCPMessageOut(Schema):
    """``{"message": "..."}``."""

    message = fields.Str()


class ToolOut(Schema):
    """A tool in a list."""

    name = fields.Str()
    description = fields.Str()


class ToolCallIn(WireSchema):
    """A call of a tool outside agent runs."""

    app_id = fields.Str(required=True, data_key="appId")
    args = fields.Dict(required=True, keys=fields.Str())
