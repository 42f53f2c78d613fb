"""Agents: definitions, sessions, runs, calls, approvals, delegations, language models.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
TABLES = (
    "agent_tool_calls",
    "agent_events",
    "agent_approvals",
    "agent_runs",
    "agent_messages",
    "agent_sessions",
    "agents",
    "agent_delegations",
    "llm_models",
)


def upgrade() -> None:
    """Create the tables of the agents slice."""
    op.create_table(
        "llm_models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_llm_models")),
        schema=SCHEMA,
    )
    op.create_index(
        "uq_llm_models_default",
        "llm_models",
        ["is_default"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "agent_delegations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("delegator_id", sa.Uuid(), nullable=False),
        sa.Column("agent_user_id", sa.Uuid(), nullable=False),
        sa.Column("trigger_type", sa.Text(), nullable=False),
        sa.Column("trigger_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "trigger_type IN ('cron', 'hook', 'webhook', 'manual', 'channel')",
            name=op.f("ck_agent_delegations_trigger_type"),
        ),
        sa.ForeignKeyConstraint(
            ["delegator_id"],
            ["trellis.users.id"],
            name=op.f("fk_agent_delegations_delegator_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_delegations")),
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_agent_delegations_delegator_id"),
        "agent_delegations",
        ["delegator_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_delegations_trigger",
        "agent_delegations",
        ["agent_user_id", "trigger_type", "trigger_id"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "agents",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["app_id"], ["trellis.apps.id"], name=op.f("fk_agents_app_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("app_id", name=op.f("pk_agents")),
        schema=SCHEMA,
    )
    op.create_table(
        "agent_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("parent_run_id", sa.Uuid(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("turn_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status IN ('active', 'running', 'waiting_approval')",
            name=op.f("ck_agent_sessions_status"),
        ),
        sa.ForeignKeyConstraint(
            ["app_id"],
            ["trellis.agents.app_id"],
            name=op.f("fk_agent_sessions_app_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_sessions")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_sessions_app_id_updated_at",
        "agent_sessions",
        ["app_id", "updated_at"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_sessions_user_id", "agent_sessions", ["user_id"], unique=False, schema=SCHEMA
    )
    op.create_table(
        "agent_messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("token_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("is_summary", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("covers_seq", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "role IN ('user', 'assistant', 'system')", name=op.f("ck_agent_messages_role")
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["trellis.agent_sessions.id"],
            name=op.f("fk_agent_messages_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_messages")),
        sa.UniqueConstraint("seq", name=op.f("uq_agent_messages_seq")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_messages_session_id_seq",
        "agent_messages",
        ["session_id", "seq"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_table(
        "agent_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("parent_run_id", sa.Uuid(), nullable=True),
        sa.Column("parent_call_id", sa.Uuid(), nullable=True),
        sa.Column("root_app_id", sa.Text(), nullable=False),
        sa.Column("invoker_id", sa.Uuid(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("scope", postgresql.JSONB(), nullable=True),
        sa.Column("agent_scope", postgresql.JSONB(), nullable=True),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("transcript", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("state_data", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("job", postgresql.JSONB(), nullable=True),
        sa.Column("response", sa.Text(), server_default="", nullable=False),
        sa.Column("tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokens_known", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column(
            "cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("active_seconds", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "queued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'waiting_approval', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_agent_runs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["parent_run_id"],
            ["trellis.agent_runs.id"],
            name=op.f("fk_agent_runs_parent_run_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["trellis.agent_sessions.id"],
            name=op.f("fk_agent_runs_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_runs")),
        sa.UniqueConstraint("parent_call_id", name=op.f("uq_agent_runs_parent_call_id")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_runs_active",
        "agent_runs",
        ["state", "queued_at"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'running', 'waiting_approval')"),
    )
    op.create_index("ix_agent_runs_app_id", "agent_runs", ["app_id"], unique=False, schema=SCHEMA)
    op.create_index(
        op.f("ix_agent_runs_parent_run_id"),
        "agent_runs",
        ["parent_run_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_runs_session_id", "agent_runs", ["session_id"], unique=False, schema=SCHEMA
    )
    op.create_index(
        "uq_agent_runs_active_session",
        "agent_runs",
        ["session_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'running', 'waiting_approval')"),
    )
    op.create_table(
        "agent_approvals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("root_app_id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text(), nullable=False),
        sa.Column("args", postgresql.JSONB(), nullable=False),
        sa.Column("call_hash", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("invoker_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decision_reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')",
            name=op.f("ck_agent_approvals_status"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["trellis.agent_runs.id"],
            name=op.f("fk_agent_approvals_run_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["trellis.agent_sessions.id"],
            name=op.f("fk_agent_approvals_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_approvals")),
        sa.UniqueConstraint("call_id", name=op.f("uq_agent_approvals_call_id")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_approvals_pending",
        "agent_approvals",
        ["root_app_id", "created_at"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        op.f("ix_agent_approvals_run_id"),
        "agent_approvals",
        ["run_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_approvals_session_id",
        "agent_approvals",
        ["session_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_table(
        "agent_events",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["trellis.agent_runs.id"],
            name=op.f("fk_agent_events_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "seq", name=op.f("pk_agent_events")),
        schema=SCHEMA,
    )
    op.create_table(
        "agent_tool_calls",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), server_default="", nullable=False),
        sa.Column("tool_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=True),
        sa.Column("input", postgresql.JSONB(), nullable=False),
        sa.Column(
            "output",
            postgresql.JSONB(
                none_as_null=True,
            ),
            nullable=True,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("counted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'failed')",
            name=op.f("ck_agent_tool_calls_status"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["trellis.agent_runs.id"],
            name=op.f("fk_agent_tool_calls_run_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["trellis.agent_sessions.id"],
            name=op.f("fk_agent_tool_calls_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_tool_calls")),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_tool_calls_counted",
        "agent_tool_calls",
        ["app_id", "created_at"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("counted"),
    )
    op.create_index(
        op.f("ix_agent_tool_calls_run_id"),
        "agent_tool_calls",
        ["run_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "ix_agent_tool_calls_session_id",
        "agent_tool_calls",
        ["session_id", "seq"],
        unique=False,
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    for table in TABLES:
        op.drop_table(table, schema=SCHEMA)
