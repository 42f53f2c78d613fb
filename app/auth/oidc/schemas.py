"""Wire shapes of single sign-on."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import WireSchema

DEFAULT_SCOPES = ("openid", "email", "profile")


def _required(name: str) -> fields.Str:
    return fields.Str(data_key=name, load_default="", metadata={"description": "required"})


class ProviderIn(WireSchema):
    """A provider; what is left out is at its default, except the secret, which is kept."""

    provider_id = _required("id")
    display_name = _required("displayName")
    issuer_url = _required("issuerUrl")
    client_id = _required("clientId")
    client_secret = fields.Str(data_key="clientSecret", load_default=None)
    scopes = fields.List(fields.Str(), load_default=lambda: list(DEFAULT_SCOPES))
    auto_register = fields.Bool(
        data_key="autoRegister", load_default=True, truthy={True}, falsy={False}
    )
    default_role = fields.Str(data_key="defaultRole", load_default="base")
    role_claim = fields.Str(data_key="roleClaim", load_default=None)
    enabled = fields.Bool(load_default=True, truthy={True}, falsy={False})


class ForceQuery(Schema):
    """Whether linked users are no reason to refuse."""

    force = fields.Str(load_default="", metadata={"description": "`true` deletes it anyway"})


class AuthorizeQuery(Schema):
    """Where the tokens shall go."""

    redirect_uri = fields.Str(load_default="")
    token_delivery = fields.Str(
        load_default="", metadata={"description": "`nonce`, or compatibility mode"}
    )


class CallbackQuery(Schema):
    """What a provider sends along."""

    code = fields.Str(load_default=None)
    state = fields.Str(load_default=None)
    error = fields.Str(load_default=None)


class CallbackOut(Schema):
    """Tokens of a sign-in without a redirect."""

    access_token = fields.Str(data_key="accessToken", required=True)
    refresh_token = fields.Str(data_key="refreshToken", required=True)
    expires_in = fields.Int(data_key="expiresIn", required=True)


class TokenExchange(WireSchema):
    """An ID token for an access token."""

    provider_id = fields.Str(data_key="providerId", required=True)
    id_token = fields.Str(data_key="idToken", required=True)


class NonceExchange(WireSchema):
    """A one-time nonce for tokens."""

    nonce = fields.Str(required=True)
