"""Wire shape of audit entries, for the OpenAPI document."""

from __future__ import annotations

from marshmallow import Schema, fields


class AuditEntryOut(Schema):
    """One change of one row."""

    id = fields.Int(required=True)
    table_schema = fields.Str(required=True, metadata={"description": "app id"})
    table_name = fields.Str(required=True, metadata={"description": "entity"})
    record_id = fields.Str(required=True)
    operation = fields.Str(required=True)
    old_record = fields.Dict(allow_none=True)
    new_record = fields.Dict(allow_none=True)
    actor_uid = fields.Str(allow_none=True)
    delegator_uid = fields.Str(allow_none=True)
    trigger_ref = fields.Str(allow_none=True)
    changed_at = fields.DateTime(required=True)
