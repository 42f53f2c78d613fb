"""Public collections and RPCs, and shares."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
TIME = sa.DateTime(timezone=True)

EXPECT = """
CREATE FUNCTION trellis.expect_v1(app text, contract uuid, principal uuid, authority uuid)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM 1
    FROM trellis.data_contracts c, trellis.rbac_version v, trellis.users u
    WHERE c.app_id = app AND c.stamp = contract AND v.version = authority
      AND u.id = principal AND u.disabled_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'something remembered does not hold any more' USING ERRCODE = 'TR001';
    END IF;
END
$$
"""


def upgrade() -> None:
    """Create what the manifest's ``public`` needs, and the check of remembered state."""
    op.execute(EXPECT)
    op.add_column(
        "data_contracts",
        sa.Column("public", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "public_shares",
        sa.Column("id", UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("created_by", UUID(), nullable=False),
        sa.Column("context", JSONB(), nullable=False),
        sa.Column("context_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_prefix", sa.String(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_accessed_at", TIME, nullable=True),
        sa.Column("access_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_public_shares"),
        sa.UniqueConstraint("token_hash", name="uq_public_shares_token_hash"),
        sa.ForeignKeyConstraint(
            ["app_id"],
            [f"{SCHEMA}.apps.id"],
            name="fk_public_shares_app_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["created_by"],
            [f"{SCHEMA}.users.id"],
            name="fk_public_shares_created_by",
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "uq_public_shares_active",
        "public_shares",
        ["app_id", "created_by", "context_hash"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_index("ix_public_shares_created_by", "public_shares", ["created_by"], schema=SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP FUNCTION trellis.expect_v1(text, uuid, uuid, uuid)")
    op.drop_table("public_shares", schema=SCHEMA)
    op.drop_column("data_contracts", "public", schema=SCHEMA)
