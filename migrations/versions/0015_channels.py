"""Channels: bots, links, conversations, what came in and what goes out.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
TIME = sa.DateTime(timezone=True)
NOW = sa.text("now()")
UUID = sa.Uuid()
TABLES = (
    "channel_outbox",
    "channel_inbox",
    "channel_sessions",
    "channel_identities",
    "channels",
)


def upgrade() -> None:
    """Create the tables of the channels slice."""
    _create_channels()
    _create_inbox()
    _create_outbox()


def _create_channels() -> None:
    op.create_table(
        "channels",
        sa.Column("id", UUID, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("status", sa.Text(), server_default="inactive", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channels")),
        sa.CheckConstraint("provider IN ('telegram', 'slack')", name=op.f("ck_channels_provider")),
        sa.CheckConstraint("status IN ('active', 'inactive')", name=op.f("ck_channels_status")),
        schema=SCHEMA,
    )
    op.create_table(
        "channel_identities",
        sa.Column("channel_id", UUID, nullable=False),
        sa.Column("external_user_id", sa.Text(), nullable=False),
        sa.Column("user_id", UUID, nullable=False),
        sa.Column("linked_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint(
            "channel_id", "external_user_id", name=op.f("pk_channel_identities")
        ),
        _to_channel("channel_identities"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            [f"{SCHEMA}.users.id"],
            name=op.f("fk_channel_identities_user_id"),
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_channel_identities_user_id"), "channel_identities", ["user_id"], schema=SCHEMA
    )
    op.create_table(
        "channel_sessions",
        sa.Column("channel_id", UUID, nullable=False),
        sa.Column("external_chat_id", sa.Text(), nullable=False),
        sa.Column("external_user_id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("session_id", UUID, nullable=False),
        sa.PrimaryKeyConstraint(
            "channel_id", "external_chat_id", "external_user_id", name=op.f("pk_channel_sessions")
        ),
        sa.ForeignKeyConstraint(
            ["channel_id", "external_user_id"],
            [
                f"{SCHEMA}.channel_identities.channel_id",
                f"{SCHEMA}.channel_identities.external_user_id",
            ],
            name=op.f("fk_channel_sessions_channel_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["app_id"],
            [f"{SCHEMA}.agents.app_id"],
            name=op.f("fk_channel_sessions_app_id"),
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_channel_sessions_identity",
        "channel_sessions",
        ["channel_id", "external_user_id"],
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_channel_sessions_app_id"), "channel_sessions", ["app_id"], schema=SCHEMA
    )


def _create_inbox() -> None:
    op.create_table(
        "channel_inbox",
        sa.Column("channel_id", UUID, nullable=False),
        sa.Column("external_event_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("external_chat_id", sa.Text(), nullable=False),
        sa.Column("external_user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("run_id", UUID),
        sa.Column("session_id", UUID),
        sa.Column("leased_until", TIME),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("received_at", TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "external_event_id", name=op.f("pk_channel_inbox")),
        sa.UniqueConstraint("seq", name=op.f("uq_channel_inbox_seq")),
        sa.CheckConstraint(
            "kind IN ('text', 'command', 'decision')", name=op.f("ck_channel_inbox_kind")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'done')", name=op.f("ck_channel_inbox_state")
        ),
        _to_channel("channel_inbox"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_channel_inbox_open",
        "channel_inbox",
        ["channel_id", "external_chat_id", "external_user_id", "seq"],
        schema=SCHEMA,
        postgresql_where=sa.text("state <> 'done'"),
    )
    op.create_index(
        "ix_channel_inbox_run_id",
        "channel_inbox",
        ["run_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_index("ix_channel_inbox_received_at", "channel_inbox", ["received_at"], schema=SCHEMA)


def _create_outbox() -> None:
    op.create_table(
        "channel_outbox",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("channel_id", UUID, nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("leased_until", TIME),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_channel_outbox")),
        _to_channel("channel_outbox"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_channel_outbox_channel_id_lane_seq",
        "channel_outbox",
        ["channel_id", "lane", "seq"],
        schema=SCHEMA,
    )


def _to_channel(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["channel_id"],
        [f"{SCHEMA}.channels.id"],
        name=op.f(f"fk_{table}_channel_id"),
        ondelete="CASCADE",
    )


def downgrade() -> None:
    """Drop the tables of the channels slice."""
    for table in TABLES:
        op.drop_table(table, schema=SCHEMA)
