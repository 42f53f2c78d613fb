"""An integration's own webhook is a webhook like the others, with a log of its calls.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

SCHEMA = "trellis"


def upgrade() -> None:
    """Make webhooks of the tokens; their name cannot be that of a manifest's webhook."""
    op.execute(
        "INSERT INTO trellis.webhooks (id, app_id, name, method, token_hash)"
        " SELECT gen_random_uuid(), integration_id, '', 'POST', token_hash"
        " FROM trellis.integration_tokens"
    )
    op.drop_table("integration_tokens", schema=SCHEMA)


def downgrade() -> None:
    """Make tokens of the webhooks; the log of their calls is lost."""
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
    op.execute(
        "INSERT INTO trellis.integration_tokens (integration_id, token_hash)"
        " SELECT app_id, token_hash FROM trellis.webhooks WHERE name = ''"
    )
    op.execute("DELETE FROM trellis.webhooks WHERE name = ''")
