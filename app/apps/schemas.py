"""Wire shapes of apps."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, post_dump

from app.http.schemas import UTCDateTime, WireSchema


class AppSummaryOut(Schema):
    """An app in the list; ``icon`` is absent when there is none."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    version = fields.Str(required=True)
    status = fields.Str(required=True)
    type = fields.Str(required=True)
    entities = fields.List(fields.Str(), required=True)
    has_frontend = fields.Bool(required=True, data_key="hasFrontend")
    icon = fields.Str()

    @post_dump
    def without_missing_icon(
        self, data: dict[str, Any], **_kwargs: Any
    ) -> dict[str, Any]:  # Any: marshmallow's signature
        """Drop the key of an icon that does not exist."""
        if data.get("icon") is None:
            data.pop("icon", None)
        return data


class AppDetailOut(Schema):
    """One app."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    version = fields.Str(required=True)
    status = fields.Str(required=True)
    data_contract = fields.List(fields.Dict(), required=True, data_key="dataContract")
    icon = fields.Str(allow_none=True)


class ChangeOut(Schema):
    """One difference between tables and manifest."""

    entity = fields.Str(required=True)
    change_type = fields.Str(required=True)
    column = fields.Str(required=True)
    detail = fields.Str(allow_none=True)


class DriftOut(Schema):
    """The drift report."""

    compliant = fields.Bool(required=True)
    changes = fields.List(fields.Nested(ChangeOut), required=True)


class ShareCreate(WireSchema):
    """The body of a new share."""

    context = fields.Raw(load_default=None, allow_none=True)


class ShareOut(Schema):
    """A new share; an existing one comes without its token."""

    id = fields.Str(required=True)
    url = fields.Str(required=True)
    token = fields.Str(required=True)
    token_prefix = fields.Str(required=True, data_key="tokenPrefix")
    context = fields.Raw(required=True, allow_none=True)
    created_at = UTCDateTime(required=True, data_key="createdAt")
    revoked = fields.Bool(required=True)


class ShareRowOut(Schema):
    """An active share in a list."""

    id = fields.Str(required=True)
    app_id = fields.Str(required=True, data_key="appId")
    context = fields.Raw(required=True, allow_none=True)
    token_prefix = fields.Str(required=True, data_key="tokenPrefix")
    created_at = UTCDateTime(required=True, data_key="createdAt")
    last_accessed_at = UTCDateTime(required=True, allow_none=True, data_key="lastAccessedAt")
    access_count = fields.Int(required=True, data_key="accessCount")


class ShareInfoOut(Schema):
    """What a share token is for."""

    app_id = fields.Str(required=True, data_key="appId")
    context = fields.Raw(required=True, allow_none=True)
