"""Apps, the registry of their entities, and the functions entity tables use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)

RFC3339 = """
CREATE FUNCTION trellis.rfc3339_v1(moment timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(
        moment AT TIME ZONE 'UTC',
        CASE WHEN date_trunc('second', moment) = moment THEN 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
             ELSE 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' END)
$$
"""
TOUCH_ROW = """
CREATE FUNCTION trellis.touch_row_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "apps",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("status", sa.String(), server_default="installed", nullable=False),
        sa.Column("manifest", JSONB(), nullable=False),
        sa.Column("has_agent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("has_frontend", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("icon", UUID(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("status IN ('installed', 'system')", name="status"),
        sa.PrimaryKeyConstraint("id", name="pk_apps"),
        schema=SCHEMA,
    )
    op.create_table(
        "data_contracts",
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("stamp", UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("entities", JSONB(), nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("app_id", name="pk_data_contracts"),
        schema=SCHEMA,
    )
    op.execute(RFC3339)
    op.execute(TOUCH_ROW)
    op.execute(
        "INSERT INTO trellis.apps (id, name, version, status, manifest)"
        " VALUES ('core', 'Core', '1', 'system', '{}')"
    )


def downgrade() -> None:
    """Drop the tables. Tables of installed apps lose their trigger on ``updated_at``."""
    op.execute("DROP FUNCTION trellis.touch_row_v1() CASCADE")
    op.execute("DROP FUNCTION trellis.rfc3339_v1(timestamptz)")
    op.drop_table("data_contracts", schema=SCHEMA)
    op.drop_table("apps", schema=SCHEMA)
