"""Jobs (queued, archived, dead) and crons with their runs.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)
UUID = postgresql.UUID()

# Rows of the queue live for seconds: dead ones must go before claims have to step over many.
QUEUE_STORAGE = """
ALTER TABLE trellis.jobs_queue SET (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
)
"""
RUNS_STORAGE = """
ALTER TABLE trellis.cron_runs SET (
    fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000
)
"""
SCHEDULES_STORAGE = "ALTER TABLE trellis.cron_schedules SET (fillfactor = 70)"


def _job_columns() -> list[sa.Column]:
    return [
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), server_default=sa.text("'worker'"), nullable=False),
        sa.Column("read_ct", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("enqueued_at", TIME, server_default=NOW, nullable=False),
        sa.Column("last_read_at", TIME),
        sa.Column("vt", TIME, server_default=NOW, nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("user_id", UUID),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("cron_id", UUID),
        sa.Column("hook_id", UUID),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("progress", sa.REAL()),
        sa.Column("progress_note", sa.Text()),
        sa.Column("last_error", sa.Text()),
    ]


def upgrade() -> None:
    """Create the tables of part 30, section 15, that belong to jobs and crons."""
    _create_jobs()
    _create_crons()


def _create_jobs() -> None:
    op.create_table(
        "jobs_queue",
        sa.Column("msg_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("fresh", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        *_job_columns(),
        sa.PrimaryKeyConstraint("msg_id", name="pk_jobs_queue"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_jobs_queue_fresh",
        "jobs_queue",
        ["app_id", "route", sa.text("priority DESC"), "msg_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("fresh"),
    )
    op.create_index(
        "ix_jobs_queue_hidden",
        "jobs_queue",
        ["app_id", "route", "vt"],
        schema=SCHEMA,
        postgresql_where=sa.text("NOT fresh"),
    )
    op.create_index(
        "ix_jobs_queue_app_id_msg_id", "jobs_queue", ["app_id", "msg_id"], schema=SCHEMA
    )
    op.create_index(
        "ix_jobs_queue_cron_id",
        "jobs_queue",
        ["cron_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("cron_id IS NOT NULL"),
    )
    op.execute(QUEUE_STORAGE)
    op.create_table(
        "jobs_archive",
        sa.Column("msg_id", sa.BigInteger(), autoincrement=False, nullable=False),
        *_job_columns(),
        sa.Column("archived_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("msg_id", name="pk_jobs_archive"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_jobs_archive_app_id_msg_id", "jobs_archive", ["app_id", "msg_id"], schema=SCHEMA
    )
    op.create_index(
        "ix_jobs_archive_archived_at",
        "jobs_archive",
        ["archived_at"],
        schema=SCHEMA,
        postgresql_using="brin",
    )
    op.create_table(
        "jobs_dead",
        sa.Column("msg_id", sa.BigInteger(), autoincrement=False, nullable=False),
        *_job_columns(),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failed_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("msg_id", name="pk_jobs_dead"),
        schema=SCHEMA,
    )
    op.create_index("ix_jobs_dead_app_id_msg_id", "jobs_dead", ["app_id", "msg_id"], schema=SCHEMA)
    op.create_index("ix_jobs_dead_failed_at", "jobs_dead", ["failed_at"], schema=SCHEMA)
    op.create_table(
        "job_keys",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("msg_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("app_id", "idempotency_key", name="pk_job_keys"),
        schema=SCHEMA,
    )
    op.create_index("ix_job_keys_created_at", "job_keys", ["created_at"], schema=SCHEMA)


def _create_crons() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("cron_job_id", schema=SCHEMA)))
    op.create_table(
        "cron_schedules",
        sa.Column("id", UUID, nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text()),
        sa.Column("payload", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("overlap_policy", sa.Text(), server_default=sa.text("'skip'"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("pg_job_id", sa.BigInteger()),
        sa.Column("source", sa.Text(), server_default=sa.text("'api'"), nullable=False),
        sa.Column("created_by", UUID),
        sa.Column("anchor_at", TIME, server_default=NOW, nullable=False),
        sa.Column("last_tick_at", TIME),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cron_schedules"),
        sa.UniqueConstraint("app_id", "name", name="uq_cron_schedules_app_id_name"),
        sa.CheckConstraint(
            "overlap_policy IN ('skip', 'queue')",
            name=op.f("ck_cron_schedules_overlap_policy"),
        ),
        sa.CheckConstraint("source IN ('api', 'manifest')", name=op.f("ck_cron_schedules_source")),
        sa.ForeignKeyConstraint(
            ["app_id"],
            [f"{SCHEMA}.apps.id"],
            name="fk_cron_schedules_app_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["created_by"],
            [f"{SCHEMA}.users.id"],
            name="fk_cron_schedules_created_by",
            ondelete="SET NULL",
        ),
        schema=SCHEMA,
    )
    op.create_index("ix_cron_schedules_created_by", "cron_schedules", ["created_by"], schema=SCHEMA)
    op.execute(SCHEDULES_STORAGE)
    op.create_table(
        "cron_runs",
        sa.Column("runid", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cron_id", UUID, nullable=False),
        sa.Column("scheduled_for", TIME),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("return_message", sa.Text()),
        sa.Column("start_time", TIME, server_default=NOW),
        sa.Column("end_time", TIME),
        sa.Column("msg_id", sa.BigInteger()),
        sa.PrimaryKeyConstraint("runid", name="pk_cron_runs"),
        sa.UniqueConstraint("cron_id", "scheduled_for", name="uq_cron_runs_cron_id_scheduled_for"),
        sa.CheckConstraint(
            "status IN ('due', 'succeeded', 'skipped', 'failed')",
            name=op.f("ck_cron_runs_status"),
        ),
        sa.ForeignKeyConstraint(
            ["cron_id"],
            [f"{SCHEMA}.cron_schedules.id"],
            name="fk_cron_runs_cron_id",
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_cron_runs_due",
        "cron_runs",
        ["cron_id", "runid"],
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'due'"),
    )
    op.create_index("ix_cron_runs_cron_id_runid", "cron_runs", ["cron_id", "runid"], schema=SCHEMA)
    op.create_index(
        "ix_cron_runs_start_time",
        "cron_runs",
        ["start_time"],
        schema=SCHEMA,
        postgresql_using="brin",
    )
    op.execute(RUNS_STORAGE)
    op.create_table(
        "scheduler_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_minute", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_scheduler_state"),
        sa.CheckConstraint("id = 1", name=op.f("ck_scheduler_state_single")),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them; queued work is lost."""
    for table in ("scheduler_state", "cron_runs", "cron_schedules"):
        op.drop_table(table, schema=SCHEMA)
    op.execute(sa.schema.DropSequence(sa.Sequence("cron_job_id", schema=SCHEMA)))
    for table in ("job_keys", "jobs_dead", "jobs_archive", "jobs_queue"):
        op.drop_table(table, schema=SCHEMA)
