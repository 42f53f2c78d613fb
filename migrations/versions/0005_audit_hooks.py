"""The audit log, hooks on entities, and the identities of app code's SQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)
FUNCTIONS = (
    "audit_row_v1()",
    "fire_hooks_v1()",
    "audit_guard_v1()",
    "may_v1(text)",
    "must_v1(text)",
)

# Settings of a login of app code (app.data.app_sql) count for nothing: for whom it works stands
# in a table it cannot write.
AUDIT_ROW = """
CREATE FUNCTION trellis.audit_row_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before json; after json; record_id text;
    actor uuid; delegator uuid; source text;
BEGIN
    IF TG_OP <> 'INSERT' THEN before := pg_catalog.row_to_json(OLD); record_id := OLD.id; END IF;
    IF TG_OP <> 'DELETE' THEN after := pg_catalog.row_to_json(NEW); record_id := NEW.id; END IF;
    IF NOT pg_catalog.starts_with(session_user::text, 'trellis_sql_') THEN
        actor := nullif(pg_catalog.current_setting('trellis.user_id', true), '');
        delegator := nullif(pg_catalog.current_setting('trellis.delegator_id', true), '');
        source := nullif(pg_catalog.current_setting('trellis.source', true), '');
    ELSE
        SELECT i.user_id, i.delegator_id, i.source INTO actor, delegator, source
        FROM trellis.sql_identities i WHERE i.pid = pg_catalog.pg_backend_pid();
    END IF;
    INSERT INTO trellis.audit_log
        (table_schema, table_name, record_id, operation, old_record, new_record,
         actor_uid, delegator_uid, trigger_ref)
    VALUES (TG_TABLE_SCHEMA, TG_TABLE_NAME, record_id, TG_OP, before, after,
            actor, delegator, source);
    RETURN NULL;
END
$$
"""
AUDIT_GUARD = """
CREATE FUNCTION trellis.audit_guard_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = '42501';
END
$$
"""
GUARDS = """
CREATE TRIGGER audit_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON trellis.audit_log
FOR EACH STATEMENT EXECUTE FUNCTION trellis.audit_guard_v1()
"""
FIRE_HOOKS = """
CREATE FUNCTION trellis.fire_hooks_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before jsonb; after jsonb; record_id text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM trellis.hooks h
        WHERE h.app_id = TG_TABLE_SCHEMA AND h.entity = TG_TABLE_NAME
          AND h.operation = TG_OP AND h.active
    ) THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN before := pg_catalog.to_jsonb(OLD); record_id := OLD.id; END IF;
    IF TG_OP <> 'DELETE' THEN after := pg_catalog.to_jsonb(NEW); record_id := NEW.id; END IF;
    INSERT INTO trellis.jobs_queue (app_id, route, source, user_id, hook_id, payload)
    SELECT h.app_id, CASE h.action_type WHEN 'agent' THEN 'agent' ELSE 'worker' END, 'hook',
           h.created_by, h.id,
           pg_catalog.jsonb_build_object(
               '_hook', true, 'hook_id', h.id, 'entity', h.entity, 'operation', h.operation,
               'record_id', record_id, 'record', after, 'old_record', before,
               'action_type', h.action_type, 'action_config', h.action_config)
    FROM trellis.hooks h
    WHERE h.app_id = TG_TABLE_SCHEMA AND h.entity = TG_TABLE_NAME
      AND h.operation = TG_OP AND h.active
    ORDER BY h.created_at, h.id;
    RETURN NULL;
END
$$
"""
MAY = """
CREATE FUNCTION trellis.may_v1(required text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT EXISTS (
        SELECT FROM trellis.sql_identities i, pg_catalog.unnest(i.permissions) held
        WHERE i.pid = pg_catalog.pg_backend_pid()
          AND (held = '*' OR held = required
               OR (pg_catalog.right(held, 2) = ':*'
                   AND pg_catalog.starts_with(required, pg_catalog.left(held, -1)))))
$$
"""
MUST = """
CREATE FUNCTION trellis.must_v1(required text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    IF trellis.may_v1(required) THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'write rejected by access policy' USING ERRCODE = '42501';
END
$$
"""
# Roles belong to the whole server, so several databases may meet here; and a managed server
# may not let us make roles at all: then everything works but SQL of app code.
APP_ROLE = """
DO $$
BEGIN
    CREATE ROLE trellis_app NOLOGIN NOINHERIT;
EXCEPTION
    WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END
$$
"""


def upgrade() -> None:
    """Create tables and functions."""
    _create_audit()
    _create_hooks()
    op.add_column(
        "data_contracts",
        sa.Column("hooked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "sql_identities",
        sa.Column("pid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("user_id", UUID(), nullable=True),
        sa.Column("delegator_id", UUID(), nullable=True),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("permissions", ARRAY(sa.String()), nullable=False),
        sa.PrimaryKeyConstraint("pid", name="pk_sql_identities"),
        schema=SCHEMA,
        prefixes=["UNLOGGED"],
    )
    for statement in (MAY, MUST, AUDIT_ROW, AUDIT_GUARD, GUARDS, FIRE_HOOKS):
        op.execute(statement)
    op.execute(APP_ROLE)


def _create_audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("table_schema", sa.String(), nullable=False),
        sa.Column("table_name", sa.String(), nullable=False),
        sa.Column("record_id", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("old_record", JSON(), nullable=True),
        sa.Column("new_record", JSON(), nullable=True),
        sa.Column("actor_uid", UUID(), nullable=True),
        sa.Column("delegator_uid", UUID(), nullable=True),
        sa.Column("trigger_ref", sa.String(), nullable=True),
        sa.Column("changed_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_audit_log_table_schema_table_name_id",
        "audit_log",
        ["table_schema", "table_name", "id"],
        schema=SCHEMA,
    )
    op.create_index("ix_audit_log_record_id", "audit_log", ["record_id"], schema=SCHEMA)
    op.create_index(
        "ix_audit_log_changed_at",
        "audit_log",
        ["changed_at"],
        schema=SCHEMA,
        postgresql_using="brin",
    )


def _create_hooks() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("app_id", sa.String(), nullable=False),
        sa.Column("entity", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("action_type", sa.String(), nullable=False),
        sa.Column("action_config", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_by", UUID(), nullable=True),
        sa.Column("made_by_app", sa.String(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("operation IN ('INSERT', 'UPDATE', 'DELETE')", name="operation"),
        sa.CheckConstraint("action_type IN ('job', 'agent')", name="action_type"),
        sa.ForeignKeyConstraint(
            ["created_by"],
            [f"{SCHEMA}.users.id"],
            name="fk_hooks_created_by",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_hooks"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_hooks_app_id_entity_operation",
        "hooks",
        ["app_id", "entity", "operation"],
        schema=SCHEMA,
    )
    op.create_index("ix_hooks_created_by", "hooks", ["created_by"], schema=SCHEMA)
    op.create_index("ix_hooks_made_by_app", "hooks", ["made_by_app"], schema=SCHEMA)


def downgrade() -> None:
    """Drop tables and functions, with the triggers and policies of installed apps' tables."""
    op.execute("DROP TRIGGER audit_guard ON trellis.audit_log")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION trellis.{function} CASCADE")
    op.drop_table("sql_identities", schema=SCHEMA)
    op.drop_column("data_contracts", "hooked", schema=SCHEMA)
    op.drop_table("hooks", schema=SCHEMA)
    op.drop_table("audit_log", schema=SCHEMA)
