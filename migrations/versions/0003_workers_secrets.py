"""Deployments, wanted states and process rows.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables of part 30, section 15, that belong to workers."""
    op.create_table(
        "deployments",
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("archive", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("entry_point", sa.String()),
        sa.Column("runtime", sa.String()),
        sa.Column("deployed_by", postgresql.UUID()),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("activated_at", TIME),
        sa.Column("is_current", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
        sa.ForeignKeyConstraint(
            ["app_id"],
            [f"{SCHEMA}.apps.id"],
            name="fk_deployments_app_id",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("runtime IN ('python', 'js')", name="ck_deployments_runtime"),
        schema=SCHEMA,
    )
    # The bytes are compressed already; trying again costs time on every deploy.
    op.execute("ALTER TABLE trellis.deployments ALTER COLUMN archive SET STORAGE EXTERNAL")
    op.create_index(
        "ix_deployments_app_id_created_at",
        "deployments",
        ["app_id", "created_at"],
        schema=SCHEMA,
    )
    op.create_index(
        "uq_deployments_current",
        "deployments",
        ["app_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "app_workers",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("desired_state", sa.String(), server_default="stopped", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("home_node", sa.String()),
        sa.Column("lease_expires_at", TIME),
        sa.Column("last_error", sa.String()),
        sa.PrimaryKeyConstraint("app_id", name="pk_app_workers"),
        sa.ForeignKeyConstraint(
            ["app_id"],
            [f"{SCHEMA}.apps.id"],
            name="fk_app_workers_app_id",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "desired_state IN ('running', 'stopped')", name="ck_app_workers_desired_state"
        ),
        schema=SCHEMA,
    )
    op.create_table(
        "worker_instances",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("pid", sa.Integer()),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("deployment_id", postgresql.UUID()),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("restarts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_crash_at", TIME),
        sa.Column("last_error", sa.String()),
        sa.Column("heartbeat_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("node", "app_id", "slot", name="pk_worker_instances"),
        schema=SCHEMA,
    )
    op.create_index("ix_worker_instances_app_id", "worker_instances", ["app_id"], schema=SCHEMA)


def downgrade() -> None:
    """Drop them."""
    for table in ("worker_instances", "app_workers", "deployments"):
        op.drop_table(table, schema=SCHEMA)
