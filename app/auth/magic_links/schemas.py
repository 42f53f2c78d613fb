"""Wire shapes of magic links."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.auth.schemas import UserOut
from app.http.schemas import JSONInteger, UTCDateTime, WireSchema


class LinkCreate(WireSchema):
    """A link to make; its life is brought within 60 to 86400 seconds."""

    email = fields.Raw(load_default=None, metadata={"type": "string", "description": "required"})
    roles = fields.List(
        fields.Str(validate=validate.Length(1, error="role names must not be empty")),
        load_default=list,
    )
    redirect_uri = fields.Str(data_key="redirectUri", load_default=None)
    expires_in_s = JSONInteger(data_key="expiresInSeconds", load_default=900)
    token_delivery = fields.Str(
        data_key="tokenDelivery",
        load_default="query",
        metadata={"description": "`nonce`, or compatibility mode"},
    )


class LinkOut(Schema):
    """A link, shown this one time."""

    url = fields.Str(data_key="magicLinkUrl", required=True)
    expires_at = UTCDateTime(data_key="expiresAt", required=True)


class LinkUse(WireSchema):
    """What a link carries."""

    token = fields.Str(required=True)


class LinkQuery(Schema):
    """What a link carries, in the browser's address bar."""

    token = fields.Str(required=True)


class SignedInOut(Schema):
    """Tokens of the new session, and where the link would have led."""

    access_token = fields.Str(
        data_key="accessToken", attribute="delivery.tokens.access_token", required=True
    )
    refresh_token = fields.Str(
        data_key="refreshToken", attribute="delivery.tokens.refresh_token", required=True
    )
    expires_in = fields.Int(
        data_key="expiresIn", attribute="delivery.tokens.expires_in", required=True
    )
    user = fields.Nested(UserOut, attribute="delivery.tokens.user", required=True)
    redirect_uri = fields.Str(data_key="redirectUri", allow_none=True, required=True)
