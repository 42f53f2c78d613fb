"""Wire shapes of hooks."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import UTCDateTime


class HookOut(Schema):
    """A hook on an entity."""

    id = fields.Str(required=True)
    app_id = fields.Str(required=True)
    entity = fields.Str(required=True)
    operation = fields.Str(required=True)
    action_type = fields.Str(required=True)
    action_config = fields.Dict(required=True)
    active = fields.Bool(required=True)
    created_by = fields.Str(allow_none=True)
    created_at = UTCDateTime(required=True)
    updated_at = UTCDateTime(required=True)


class OkOut(Schema):
    """``{"ok": true}``."""

    ok = fields.Bool(required=True)
