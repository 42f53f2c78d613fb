"""Keys of service accounts, magic links, and delegations of the kind act_as."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)
TRIGGERS = "'cron', 'hook', 'webhook', 'manual', 'channel'"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "service_credentials",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        _to_users("service_credentials", "user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_service_credentials"),
        schema=SCHEMA,
    )
    op.create_table(
        "magic_link_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("roles", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=True),
        sa.Column("token_delivery", sa.Text(), server_default="", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("consumed_at", TIME, nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        _to_users("magic_link_tokens", "created_by"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_magic_link_tokens"),
        schema=SCHEMA,
    )
    for table, column in (
        ("service_credentials", "user_id"),
        ("magic_link_tokens", "email"),
        ("magic_link_tokens", "created_by"),
        ("magic_link_tokens", "expires_at"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column], schema=SCHEMA)
    _allow_triggers(f"{TRIGGERS}, 'act_as'")


def downgrade() -> None:
    """Undo."""
    op.execute("DELETE FROM trellis.agent_delegations WHERE trigger_type = 'act_as'")
    _allow_triggers(TRIGGERS)
    op.drop_table("magic_link_tokens", schema=SCHEMA)
    op.drop_table("service_credentials", schema=SCHEMA)


def _to_users(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], ["trellis.users.id"], name=f"fk_{table}_{column}", ondelete="CASCADE"
    )


def _allow_triggers(kinds: str) -> None:
    name = op.f("ck_agent_delegations_trigger_type")
    op.drop_constraint(name, "agent_delegations", schema=SCHEMA, type_="check")
    op.create_check_constraint(
        name, "agent_delegations", f"trigger_type IN ({kinds})", schema=SCHEMA
    )
