"""Stored files, one-time addresses, buckets.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)
TABLES = ("storage_objects", "storage_buckets", "file_nonces", "file_pieces", "files")
INDEXES = {
    "files": ("app_id", "uploaded_by"),
    "file_nonces": ("app_id", "user_id", "file_id", "expires_at"),
    "storage_objects": ("parent_id", "uploaded_by"),
}


def _refers(table: str, column: str, target: str, rule: str | None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"trellis.{target}"], name=name, ondelete=rule)


def upgrade() -> None:
    """Create the tables and the bucket that always exists."""
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("uploaded_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        _refers("files", "app_id", "apps.id", "CASCADE"),
        _refers("files", "uploaded_by", "users.id", "SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        schema=SCHEMA,
    )
    op.create_table(
        "file_pieces",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        _refers("file_pieces", "file_id", "files.id", "CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "seq", name=op.f("pk_file_pieces")),
        schema=SCHEMA,
    )
    # Most files are compressed already.
    op.execute("ALTER TABLE trellis.file_pieces ALTER COLUMN data SET STORAGE EXTERNAL")
    op.create_table(
        "file_nonces",
        sa.Column("nonce_hash", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(), server_default="", nullable=False),
        sa.Column("content_type", sa.String(), server_default="", nullable=False),
        sa.Column("size", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        _refers("file_nonces", "app_id", "apps.id", "CASCADE"),
        _refers("file_nonces", "user_id", "users.id", "CASCADE"),
        _refers("file_nonces", "file_id", "files.id", "CASCADE"),
        sa.PrimaryKeyConstraint("nonce_hash", name=op.f("pk_file_nonces")),
        schema=SCHEMA,
    )
    _create_storage()
    for table, columns in INDEXES.items():
        for column in columns:
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column], schema=SCHEMA)


def _create_storage() -> None:
    op.create_table(
        "storage_buckets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("public", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("max_file_size", sa.BigInteger(), nullable=True),
        sa.Column("allowed_types", JSONB(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_storage_buckets")),
        schema=SCHEMA,
    )
    op.execute("INSERT INTO trellis.storage_buckets (name) VALUES ('default')")
    op.create_table(
        "storage_objects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column("metadata", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("uploaded_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        _refers("storage_objects", "bucket", "storage_buckets.name", None),
        _refers("storage_objects", "parent_id", "storage_objects.id", "CASCADE"),
        _refers("storage_objects", "file_id", "files.id", "CASCADE"),
        _refers("storage_objects", "uploaded_by", "users.id", "SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_objects")),
        sa.UniqueConstraint(
            "bucket",
            "parent_id",
            "name",
            name=op.f("uq_storage_objects_bucket_parent_id_name"),
            postgresql_nulls_not_distinct=True,
        ),
        sa.UniqueConstraint("file_id", name=op.f("uq_storage_objects_file_id")),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    for table in TABLES:
        op.drop_table(table, schema=SCHEMA)
