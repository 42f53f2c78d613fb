"""MCP servers and their tools.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SCHEMA = "trellis"


def upgrade() -> None:
    """Create the tables of MCP servers."""
    op.create_table(
        "mcp_servers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("status", sa.Text(), server_default="stopped", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
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
            "status IN ('stopped', 'running', 'error')", name=op.f("ck_mcp_servers_status")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_mcp_servers")),
        schema=SCHEMA,
    )
    op.create_table(
        "mcp_tools",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("remote_name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("input_schema", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server"],
            [f"{SCHEMA}.mcp_servers.name"],
            name=op.f("fk_mcp_tools_server_mcp_servers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_mcp_tools")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_mcp_tools_server"), "mcp_tools", ["server"], schema=SCHEMA)


def downgrade() -> None:
    """Drop them."""
    op.drop_table("mcp_tools", schema=SCHEMA)
    op.drop_table("mcp_servers", schema=SCHEMA)
