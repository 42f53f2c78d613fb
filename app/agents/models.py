"""Tables of agents, their runs and what happens in them.

Source: REST contract part 40, sections 1.3, 1.15 and 2.1.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base

AGENTS_APP_ID = f"{SCHEMA}.agents.app_id"
SESSIONS_ID = f"{SCHEMA}.agent_sessions.id"
RUNS_ID = f"{SCHEMA}.agent_runs.id"
JSON = dict[str, Any]  # Any: JSON values


def _now() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


def _time() -> Mapped[datetime | None]:
    return mapped_column(DateTime(timezone=True))


class Agent(Base):
    """An app's agent as it was deployed or renamed last.

    Attributes:
        config: agent.json with its defaults filled in.
        prompt: the resolved system prompt.
        owner_id: who deployed it first.
    """

    __tablename__ = "agents"

    app_id: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    config: Mapped[JSON] = mapped_column(JSONB)
    prompt: Mapped[str] = mapped_column(Text)
    owner_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


class AgentSession(Base):
    """A conversation of one user with one agent."""

    __tablename__ = "agent_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    app_id: Mapped[str] = mapped_column(ForeignKey(AGENTS_APP_ID, ondelete="CASCADE"))
    user_id: Mapped[UUID | None]
    parent_run_id: Mapped[UUID | None]
    title: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="active")
    total_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    turn_count: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("status IN ('active', 'running', 'waiting_approval')", name="status"),
        Index("ix_agent_sessions_app_id_updated_at", "app_id", "updated_at"),
        Index("ix_agent_sessions_user_id", "user_id"),
    )


class AgentMessage(Base):
    """One message of a session.

    Attributes:
        covers_seq: of a summary: the last message it stands for.
    """

    __tablename__ = "agent_messages"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SESSIONS_ID, ondelete="CASCADE"))
    run_id: Mapped[UUID | None]
    role: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    token_count: Mapped[int] = mapped_column(server_default=text("0"))
    is_summary: Mapped[bool] = mapped_column(server_default=text("false"))
    covers_seq: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant', 'system')", name="role"),
        Index("ix_agent_messages_session_id_seq", "session_id", "seq"),
    )


class AgentRun(Base):
    """One invocation of an agent: its state, its snapshot of what it may, its transcript.

    Attributes:
        source: api, cron, hook, webhook, channel or agent.
        scope: the frozen effective permissions; null until the run starts.
        agent_scope: the agent's own permissions at the start (tool gate).
        config: what the run works with: limits, supervision, prompt, model, question, files.
        transcript: provider-neutral messages, saved after every turn.
        state_data: where in a turn the run stands (open calls, last event number).
        job: the queue message to settle when the run ends.
        active_seconds: time spent working before the current stretch.
        owner: the worker process that holds the run, for its heartbeat.
    """

    __tablename__ = "agent_runs"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SESSIONS_ID, ondelete="CASCADE"))
    app_id: Mapped[str] = mapped_column(Text)
    parent_run_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(RUNS_ID, ondelete="CASCADE"), index=True
    )
    parent_call_id: Mapped[UUID | None] = mapped_column(unique=True)
    root_app_id: Mapped[str] = mapped_column(Text)
    invoker_id: Mapped[UUID | None]
    source: Mapped[str] = mapped_column(Text)
    scope: Mapped[list[str] | None] = mapped_column(JSONB)
    agent_scope: Mapped[list[str] | None] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(Text, server_default="queued")
    config: Mapped[JSON] = mapped_column(JSONB)
    transcript: Mapped[list[JSON]] = mapped_column(JSONB, server_default=text("'[]'"))
    state_data: Mapped[JSON] = mapped_column(JSONB, server_default=text("'{}'"))
    job: Mapped[JSON | None] = mapped_column(JSONB)
    response: Mapped[str] = mapped_column(Text, server_default="")
    tokens: Mapped[int] = mapped_column(server_default=text("0"))
    tokens_known: Mapped[bool] = mapped_column(server_default=text("true"))
    error: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str | None] = mapped_column(Text)
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    heartbeat_at: Mapped[datetime | None] = _time()
    active_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    queued_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None] = _time()
    finished_at: Mapped[datetime | None] = _time()

    __table_args__ = (
        CheckConstraint(
            "state IN ('queued', 'running', 'waiting_approval', 'completed', 'failed',"
            " 'cancelled')",
            name="state",
        ),
        Index(
            "uq_agent_runs_active_session",
            "session_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'running', 'waiting_approval')"),
        ),
        Index(
            "ix_agent_runs_active",
            "state",
            "queued_at",
            postgresql_where=text("state IN ('queued', 'running', 'waiting_approval')"),
        ),
        Index("ix_agent_runs_session_id", "session_id"),
        Index("ix_agent_runs_app_id", "app_id"),
    )


class AgentToolCall(Base):
    """One call of a tool.

    Attributes:
        provider_id: the model provider's own id of the call.
        counted: whether it passed the rate limits.
        effect: whether it may have changed something once started.
    """

    __tablename__ = "agent_tool_calls"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    run_id: Mapped[UUID] = mapped_column(ForeignKey(RUNS_ID, ondelete="CASCADE"), index=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SESSIONS_ID, ondelete="CASCADE"))
    message_id: Mapped[UUID | None]
    app_id: Mapped[str] = mapped_column(Text)
    provider_id: Mapped[str] = mapped_column(Text, server_default="")
    tool_name: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    entity: Mapped[str | None] = mapped_column(Text)
    input: Mapped[Any] = mapped_column(JSONB)
    output: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    counted: Mapped[bool] = mapped_column(server_default=text("false"))
    duration_ms: Mapped[int | None]
    created_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'running', 'completed', 'failed')", name="status"),
        Index("ix_agent_tool_calls_session_id", "session_id", "seq"),
        Index(
            "ix_agent_tool_calls_counted",
            "app_id",
            "created_at",
            postgresql_where=text("counted"),
        ),
    )


class AgentApproval(Base):
    """A question to people about one call.

    Attributes:
        call_hash: SHA-256 of tool and canonical arguments; what was approved is what runs.
        used_at: when the approved call was started; an approval works once.
    """

    __tablename__ = "agent_approvals"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    run_id: Mapped[UUID] = mapped_column(ForeignKey(RUNS_ID, ondelete="CASCADE"), index=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SESSIONS_ID, ondelete="CASCADE"))
    call_id: Mapped[UUID] = mapped_column(unique=True)
    root_app_id: Mapped[str] = mapped_column(Text)
    app_id: Mapped[str] = mapped_column(Text)
    tool_name: Mapped[str] = mapped_column(Text)
    args: Mapped[Any] = mapped_column(JSONB)
    call_hash: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    invoker_id: Mapped[UUID | None]
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    decided_by: Mapped[UUID | None]
    decision_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    decided_at: Mapped[datetime | None] = _time()
    used_at: Mapped[datetime | None] = _time()

    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')", name="status"
        ),
        Index(
            "ix_agent_approvals_pending",
            "root_app_id",
            "created_at",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_agent_approvals_session_id", "session_id"),
    )


class AgentEvent(Base):
    """One event of a run's stream, text deltas excepted."""

    __tablename__ = "agent_events"

    run_id: Mapped[UUID] = mapped_column(ForeignKey(RUNS_ID, ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[JSON] = mapped_column(JSONB)
    at: Mapped[datetime] = _now()


class MCPServer(Base):
    """A registered MCP server.

    Attributes:
        config: transport and environment as they were typed in, secrets by name only.
        version: rises with every change; a client of an older one is closed.
    """

    __tablename__ = "mcp_servers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    config: Mapped[JSON] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(Text, server_default="stopped")
    error: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint("status IN ('stopped', 'running', 'error')", name="status"),)


class MCPTool(Base):
    """A tool of a running MCP server.

    Attributes:
        name: under which models and people know it; unique.
        remote_name: the server's own name of it.
    """

    __tablename__ = "mcp_tools"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    server: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.mcp_servers.name", ondelete="CASCADE"), index=True
    )
    remote_name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    input_schema: Mapped[JSON] = mapped_column(JSONB)


class LLMModel(Base):
    """A registered language model; its key is a secret, named in ``config``."""

    __tablename__ = "llm_models"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    config: Mapped[JSON] = mapped_column(JSONB, server_default=text("'{}'"))
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    created_at: Mapped[datetime] = _now()

    __table_args__ = (
        Index(
            "uq_llm_models_default", "is_default", unique=True, postgresql_where=text("is_default")
        ),
    )
