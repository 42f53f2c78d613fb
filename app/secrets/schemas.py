"""Wire shapes of secrets."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import WireSchema


class SecretSet(WireSchema):
    """A name and its value."""

    key = fields.Str(required=True, metadata={"description": "1-128 letters, digits, `_`"})
    value = fields.Str(required=True, metadata={"description": "text, at most 64 KiB"})


class PlatformSecretOut(Schema):
    """What a change of a platform secret caused."""

    message = fields.Str(required=True)
    workers_restarted = fields.Int(required=True)
