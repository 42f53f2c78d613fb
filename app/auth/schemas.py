"""Wire shapes of accounts and sessions."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from marshmallow import Schema, fields

from app.http.schemas import WireSchema


class OffsetDateTime(fields.DateTime):
    """A time written with ``+00:00``: user objects only (contract part 10, section 1.1)."""

    def _serialize(
        self, value: Any, attr: str | None, obj: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        return None if value is None else value.astimezone(UTC).isoformat()


class UserOut(Schema):
    """A user as everybody may see it."""

    id = fields.UUID(required=True)
    email = fields.Str(required=True)
    display_name = fields.Str(data_key="displayName", allow_none=True, required=True)
    created_at = OffsetDateTime(data_key="createdAt", required=True)


class Register(WireSchema):
    """A new account."""

    email = fields.Raw(
        load_default=None,
        metadata={"type": "string", "description": "required; compared without case"},
    )
    password = fields.Str(required=True)
    display_name = fields.Str(data_key="displayName", load_default=None)


class Registered(Schema):
    """The new account."""

    user = fields.Nested(UserOut, required=True)


class Login(WireSchema):
    """Credentials."""

    email = fields.Str(required=True)
    password = fields.Str(required=True)


class LoggedIn(Schema):
    """Tokens of a new session."""

    access_token = fields.Str(data_key="accessToken", required=True)
    refresh_token = fields.Str(data_key="refreshToken", required=True)
    expires_in = fields.Int(data_key="expiresIn", required=True)
    user = fields.Nested(UserOut, required=True)


class RefreshToken(WireSchema):
    """The credential of a session."""

    refresh_token = fields.Str(data_key="refreshToken", required=True)


class AccessToken(Schema):
    """A new access token."""

    access_token = fields.Str(data_key="accessToken", required=True)
    expires_in = fields.Int(data_key="expiresIn", required=True)


class ProviderButtonOut(Schema):
    """A provider on the login page."""

    id = fields.Str(required=True)
    display_name = fields.Str(data_key="displayName", required=True)


class ModeOut(Schema):
    """How one may sign in here."""

    auth_required = fields.Bool(data_key="authRequired", required=True)
    setup_required = fields.Bool(data_key="setupRequired", required=True)
    password_login_enabled = fields.Bool(data_key="passwordLoginEnabled", required=True)
    providers = fields.List(fields.Nested(ProviderButtonOut), required=True)
    magic_link_enabled = fields.Bool(data_key="magicLinkEnabled", required=True)
