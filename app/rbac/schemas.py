"""Wire shapes of roles and permissions."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import UTCDateTime, WireSchema


class RoleCreate(WireSchema):
    """A new role."""

    name = fields.Str(load_default="", metadata={"description": "required, 1-128 characters, no /"})
    description = fields.Str(load_default=None)
    inherits = fields.List(fields.Str(), load_default=list)
    permissions = fields.List(fields.Str(), load_default=list)


class RolePatch(WireSchema):
    """Changes of a role; what is absent stays."""

    description = fields.Str()
    inherits = fields.List(fields.Str())
    permissions = fields.List(fields.Str())


class RoleOut(Schema):
    """A role."""

    name = fields.Str(required=True)
    description = fields.Str(allow_none=True, required=True)
    inherits = fields.List(fields.Str(), required=True)
    permissions = fields.List(fields.Str(), required=True)


class AssignmentIn(WireSchema):
    """A principal and a role."""

    user_id = fields.UUID(
        data_key="userId",
        required=True,
        error_messages={"invalid_uuid": "userId must be a UUID"},
    )
    role = fields.Str(required=True)


class AssignmentOut(Schema):
    """A principal holds a role."""

    user_id = fields.UUID(data_key="userId", required=True)
    role = fields.Str(required=True)
    assigned_at = UTCDateTime(data_key="assignedAt", required=True)


class AuthorityOut(Schema):
    """Roles and keys, wildcards not expanded."""

    roles = fields.List(fields.Str(), required=True)
    permissions = fields.List(fields.Str(), required=True)


class KeyOut(Schema):
    """A registered key."""

    key = fields.Str(required=True)
    description = fields.Str(required=True)
