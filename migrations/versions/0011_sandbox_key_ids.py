"""Which protections a process has, and which key a secret is encrypted with.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SCHEMA = "trellis"


def upgrade() -> None:
    """Add the columns; older secrets name no key and are tried with each."""
    sandbox = sa.Column("sandbox", postgresql.ARRAY(sa.Text()), nullable=True)
    op.add_column("worker_instances", sandbox, schema=SCHEMA)
    op.add_column("secrets", sa.Column("key_id", sa.Text(), nullable=True), schema=SCHEMA)


def downgrade() -> None:
    """Drop them."""
    op.drop_column("secrets", "key_id", schema=SCHEMA)
    op.drop_column("worker_instances", "sandbox", schema=SCHEMA)
