"""Jobs of hooks know how many hooks led to them.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The setting is made by the platform for each transaction. App code's own SQL may change it, but
# no right depends on it.
FIRE_HOOKS = """
CREATE OR REPLACE FUNCTION trellis.fire_hooks_v1() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before jsonb; after jsonb; record_id text; depth text; more jsonb := '{{}}';
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
    {depth}
    INSERT INTO trellis.jobs_queue (app_id, route, source, user_id, hook_id, payload)
    SELECT h.app_id, CASE h.action_type WHEN 'agent' THEN 'agent' ELSE 'worker' END, 'hook',
           h.created_by, h.id,
           pg_catalog.jsonb_build_object(
               '_hook', true, 'hook_id', h.id, 'entity', h.entity, 'operation', h.operation,
               'record_id', record_id, 'record', after, 'old_record', before,
               'action_type', h.action_type, 'action_config', h.action_config) || more
    FROM trellis.hooks h
    WHERE h.app_id = TG_TABLE_SCHEMA AND h.entity = TG_TABLE_NAME
      AND h.operation = TG_OP AND h.active
    ORDER BY h.created_at, h.id;
    RETURN NULL;
END
$$
"""
DEPTH = """
    depth := pg_catalog.current_setting('trellis.hook_depth', true);
    IF depth ~ '^[1-9][0-9]{0,3}$' THEN
        more := pg_catalog.jsonb_build_object('_depth', depth::int);
    END IF;
"""


def upgrade() -> None:
    """Have the trigger note the depth."""
    op.execute(FIRE_HOOKS.format(depth=DEPTH))


def downgrade() -> None:
    """Note no depth any more; the function is the same otherwise."""
    op.execute(FIRE_HOOKS.format(depth=""))
