"""Integrations: settings, connections of users, bindings to apps, logins under way.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
TABLES = (
    "app_integrations",
    "oauth_states",
    "integration_connections",
    "integration_tokens",
    "integration_settings",
    "integration_configs",
)


def upgrade() -> None:
    """Create the tables of the integrations slice."""
    op.create_table(
        "integration_configs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_integration_configs_integration_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integration_configs")),
        schema=SCHEMA,
    )
    op.create_index(
        "uq_integration_configs_integration_id_label",
        "integration_configs",
        ["integration_id", "label"],
        unique=True,
        schema=SCHEMA,
    )
    op.create_table(
        "integration_settings",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("config_id", sa.Text(), nullable=False),
        sa.Column("values", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_integration_settings_integration_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "integration_id", "config_id", name=op.f("pk_integration_settings")
        ),
        schema=SCHEMA,
    )
    op.create_table(
        "integration_tokens",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_integration_tokens_integration_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_integration_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_integration_tokens_token_hash")),
        schema=SCHEMA,
    )
    op.create_table(
        "integration_connections",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), server_default=sa.text("'direct'"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("config_id", sa.Uuid(), nullable=True),
        sa.Column("lent_id", sa.Uuid(), nullable=True),
        sa.Column("refreshing_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(kind = 'delegation') = (lent_id IS NOT NULL)",
            name=op.f("ck_integration_connections_lent"),
        ),
        sa.CheckConstraint(
            "kind IN ('direct', 'delegation')", name=op.f("ck_integration_connections_kind")
        ),
        sa.CheckConstraint(
            "status IN ('active', 'dead')", name=op.f("ck_integration_connections_status")
        ),
        sa.ForeignKeyConstraint(
            ["config_id"],
            ["trellis.integration_configs.id"],
            name=op.f("fk_integration_connections_config_id"),
        ),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_integration_connections_integration_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["lent_id"],
            ["trellis.integration_connections.id"],
            name=op.f("fk_integration_connections_lent_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["trellis.users.id"],
            name=op.f("fk_integration_connections_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integration_connections")),
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_integration_connections_config_id"),
        "integration_connections",
        ["config_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_integration_connections_integration_id_user_id_created_at"),
        "integration_connections",
        ["integration_id", "user_id", "created_at"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_integration_connections_lent_id"),
        "integration_connections",
        ["lent_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_integration_connections_user_id"),
        "integration_connections",
        ["user_id"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_index(
        "uq_integration_connections_delegation",
        "integration_connections",
        ["integration_id", "user_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("kind = 'delegation'"),
    )
    op.create_index(
        "uq_integration_connections_label",
        "integration_connections",
        ["integration_id", "user_id", "label"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("kind = 'direct' AND label IS NOT NULL"),
    )
    op.create_table(
        "oauth_states",
        sa.Column("state_hash", sa.LargeBinary(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("verifier", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["config_id"],
            ["trellis.integration_configs.id"],
            name=op.f("fk_oauth_states_config_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_oauth_states_integration_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["trellis.users.id"],
            name=op.f("fk_oauth_states_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("state_hash", name=op.f("pk_oauth_states")),
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_oauth_states_expires_at"),
        "oauth_states",
        ["expires_at"],
        unique=False,
        schema=SCHEMA,
    )
    op.create_table(
        "app_integrations",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Text(), server_default="", nullable=False),
        sa.Column("connection_id", sa.Uuid(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["app_id"],
            ["trellis.apps.id"],
            name=op.f("fk_app_integrations_app_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["trellis.integration_connections.id"],
            name=op.f("fk_app_integrations_connection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["integration_id"],
            ["trellis.apps.id"],
            name=op.f("fk_app_integrations_integration_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "app_id", "integration_id", "user_id", name=op.f("pk_app_integrations")
        ),
        schema=SCHEMA,
    )
    op.create_index(
        op.f("ix_app_integrations_connection_id"),
        "app_integrations",
        ["connection_id"],
        unique=False,
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    for table in TABLES:
        op.drop_table(table, schema=SCHEMA)
