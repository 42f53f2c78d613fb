"""Wire shapes of channels."""

from __future__ import annotations

from marshmallow import Schema, fields, post_dump

from app.http.schemas import UTCDateTime, WireSchema


class ChannelCreate(WireSchema):
    """A new channel."""

    provider = fields.Str(required=True, metadata={"description": "telegram or slack"})
    name = fields.Str(required=True)
    config = fields.Dict(
        keys=fields.Str(),
        load_default=dict,
        metadata={"description": "bot_token, signing_secret, default_agent"},
    )


class ChannelActivate(WireSchema):
    """What an activation may bring."""

    public_url = fields.Str(load_default=None)
    config = fields.Dict(keys=fields.Str(), load_default=dict)


class ChannelOut(Schema):
    """A channel without its secrets."""

    id = fields.Str(required=True)
    provider = fields.Str(required=True)
    name = fields.Str(required=True)
    config = fields.Dict(required=True)
    status = fields.Str(required=True)
    created_at = UTCDateTime(required=True, data_key="createdAt")
    updated_at = UTCDateTime(required=True, data_key="updatedAt")


class ChannelCreated(Schema):
    """A new channel's id, and the secret of its webhook, shown once."""

    id = fields.Str(required=True)
    webhook_secret = fields.Str(required=True)


class ChannelStatusOut(Schema):
    """What became of a channel."""

    status = fields.Str(required=True)


class ChannelActivated(ChannelStatusOut):
    """An active channel and where its provider calls."""

    webhook_url = fields.Str(required=True)


class ChannelLink(Schema):
    """A token that links an account."""

    token = fields.Str(required=True)
    provider = fields.Str(required=True)
    link_url = fields.Str(data_key="linkUrl")
    expires_in = fields.Int(required=True, data_key="expiresIn")

    @post_dump
    def drop_no_url(self, data: dict[str, object], **_kwargs: object) -> dict[str, object]:
        """Leave the address out where there is none."""
        return {name: value for name, value in data.items() if value is not None}


class ChannelIdentityOut(Schema):
    """Whether the caller has an account linked."""

    linked = fields.Bool(required=True)
