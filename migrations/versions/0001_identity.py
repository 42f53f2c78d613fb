"""Principals, sessions, identity providers, roles, the vault, the security log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "trellis"
NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)

TOUCH = """
CREATE FUNCTION trellis.rbac_touch_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE trellis.rbac_version SET version = gen_random_uuid();
    RETURN NULL;
END
$$
"""
TRIGGER = """
CREATE TRIGGER rbac_touch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON trellis.{table}
FOR EACH STATEMENT EXECUTE FUNCTION trellis.rbac_touch_v1()
"""
KEYS = {
    "tool:query_data": "use the tool query_data",
    "tool:mutate_data": "use the tool mutate_data",
    "tool:list_apps": "use the tool list_apps",
    "tool:describe_app": "use the tool describe_app",
    "tool:list_integrations": "use the tool list_integrations",
    "tool:call_integration": "use the tool call_integration",
    "tool:invoke_agent": "use the tool invoke_agent",
    "tool:list_actions": "use the tool list_actions",
    "tool:call_action": "use the tool call_action",
    "platform:apps.create": "install apps of one's own",
    "admin:apps.install": "install, replace and uninstall any app or integration",
    "admin:apps.deploy": "upload the code of any app",
    "admin:agents.manage": "change and delete agents, read all their sessions",
    "admin:channels.manage": "create, delete and switch channels",
    "admin:secrets.manage": "manage the secrets of apps and of the platform",
    "admin:audit.read": "read the audit log",
}


def upgrade() -> None:
    """Apply."""
    _users()
    _oidc()
    _rbac()
    _vault_and_log()
    _seed()


def downgrade() -> None:
    """Undo."""
    for table in ("security_events", "secrets", "rbac_assignments", "rbac_roles"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("DROP FUNCTION trellis.rbac_touch_v1()")
    for table in (
        "rbac_version",
        "rbac_permissions",
        "auth_nonces",
        "oidc_state",
        "oidc_providers",
        "sessions",
        "users",
    ):
        op.drop_table(table, schema=SCHEMA)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=null, server_default=default)


def _created() -> sa.Column[object]:
    return sa.Column("created_at", TIME, server_default=NOW, nullable=False)


def _to_users(table: str, column: str, on_delete: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], ["trellis.users.id"], name=f"fk_{table}_{column}", ondelete=on_delete
    )


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), schema=SCHEMA)


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        _text("email"),
        _text("display_name", null=True),
        _text("password_hash", null=True),
        _text("kind", default="human"),
        sa.Column("is_system", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.Column("owner_of_record", sa.Uuid(), nullable=True),
        _text("oidc_provider", null=True),
        _text("oidc_sub", null=True),
        _created(),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("kind IN ('human', 'agent', 'service')", name="kind"),
        sa.CheckConstraint("(oidc_provider IS NULL) = (oidc_sub IS NULL)", name="oidc_link"),
        _to_users("users", "owner_of_record", "SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
        schema=SCHEMA,
    )
    _index("users", "owner_of_record")
    op.create_index(
        "uq_users_oidc_provider_oidc_sub",
        "users",
        ["oidc_provider", "oidc_sub"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("oidc_provider IS NOT NULL"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        _created(),
        _to_users("sessions", "user_id", "CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        schema=SCHEMA,
    )
    _index("sessions", "user_id")
    _index("sessions", "expires_at")


def _oidc() -> None:
    op.create_table(
        "oidc_providers",
        _text("id"),
        _text("display_name"),
        _text("issuer_url"),
        _text("client_id"),
        sa.Column(
            "scopes",
            sa.ARRAY(sa.Text()),
            server_default=sa.text("'{openid,email,profile}'"),
            nullable=False,
        ),
        sa.Column("auto_register", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        _text("default_role", default="base"),
        _text("role_claim", null=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        _created(),
        sa.PrimaryKeyConstraint("id", name="pk_oidc_providers"),
        schema=SCHEMA,
    )
    op.create_table(
        "oidc_state",
        _text("state"),
        _text("provider_id"),
        _text("nonce"),
        _text("pkce_verifier"),
        _text("redirect_uri", default=""),
        _text("token_delivery", default=""),
        _created(),
        sa.PrimaryKeyConstraint("state", name="pk_oidc_state"),
        schema=SCHEMA,
    )
    _index("oidc_state", "provider_id")
    op.create_table(
        "auth_nonces",
        sa.Column("nonce_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        _created(),
        _to_users("auth_nonces", "user_id", "CASCADE"),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["trellis.sessions.id"],
            name="fk_auth_nonces_session_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("nonce_hash", name="pk_auth_nonces"),
        schema=SCHEMA,
    )
    _index("auth_nonces", "user_id")
    _index("auth_nonces", "session_id")


def _rbac() -> None:
    empty = sa.text("'{}'")
    op.create_table(
        "rbac_permissions",
        _text("key"),
        _text("description", default=""),
        _text("source_app", null=True),
        sa.PrimaryKeyConstraint("key", name="pk_rbac_permissions"),
        schema=SCHEMA,
    )
    _index("rbac_permissions", "source_app")
    op.create_table(
        "rbac_roles",
        _text("name"),
        _text("description", null=True),
        sa.Column("inherits", sa.ARRAY(sa.Text()), server_default=empty, nullable=False),
        sa.Column("permissions", sa.ARRAY(sa.Text()), server_default=empty, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_rbac_roles"),
        schema=SCHEMA,
    )
    op.create_table(
        "rbac_assignments",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        _text("role"),
        sa.Column("assigned_at", TIME, server_default=NOW, nullable=False),
        _to_users("rbac_assignments", "user_id", "CASCADE"),
        sa.ForeignKeyConstraint(
            ["role"],
            ["trellis.rbac_roles.name"],
            name="fk_rbac_assignments_role",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "role", name="pk_rbac_assignments"),
        schema=SCHEMA,
    )
    _index("rbac_assignments", "role")
    op.create_table(
        "rbac_version",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "version", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False
        ),
        sa.CheckConstraint("singleton", name="one_row"),
        sa.PrimaryKeyConstraint("singleton", name="pk_rbac_version"),
        schema=SCHEMA,
    )
    op.execute("INSERT INTO trellis.rbac_version DEFAULT VALUES")
    op.execute(TOUCH)
    op.execute(TRIGGER.format(table="rbac_roles"))
    op.execute(TRIGGER.format(table="rbac_assignments"))


def _vault_and_log() -> None:
    op.create_table(
        "secrets",
        _text("scope"),
        _text("key_name"),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("scope", "key_name", name="pk_secrets"),
        schema=SCHEMA,
    )
    op.create_table(
        "security_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("occurred_at", TIME, server_default=NOW, nullable=False),
        _text("event"),
        sa.Column("actor_uid", sa.Uuid(), nullable=True),
        sa.Column("subject_uid", sa.Uuid(), nullable=True),
        _text("client_address", null=True),
        sa.Column(
            "details",
            postgresql.JSONB(),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name="pk_security_events"),
        schema=SCHEMA,
    )
    _index("security_events", "event", "id")


def _seed() -> None:
    op.execute(
        "INSERT INTO trellis.users (id, email, kind, is_system) VALUES "
        "('00000000-0000-0000-0000-000000000001', 'system@localhost', 'service', true)"
    )
    op.execute(
        "INSERT INTO trellis.rbac_roles (name, description, permissions) VALUES "
        "('admin', 'Everything', '{*}'), ('base', 'Every user of single sign-on', '{}')"
    )
    keys = sa.table("rbac_permissions", sa.column("key"), sa.column("description"), schema=SCHEMA)
    op.bulk_insert(keys, [{"key": key, "description": text} for key, text in KEYS.items()])
