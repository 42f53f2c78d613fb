"""Wire shapes of service accounts; the contract mixes cases here."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import JSONInteger, UTCDateTime, WireSchema


class AccountCreate(WireSchema):
    """A service account to create."""

    slug = fields.Str(required=True)
    display_name = fields.Str(data_key="displayName", load_default=None)


class AccountCreated(Schema):
    """The new account."""

    id = fields.UUID(required=True)
    email = fields.Str(required=True)


class AccountOut(AccountCreated):
    """A service account."""

    display_name = fields.Str(data_key="displayName", allow_none=True, required=True)
    disabled = fields.Bool(required=True)
    created_at = UTCDateTime(data_key="createdAt", required=True)


class AccountState(Schema):
    """Whether an account is switched off."""

    id = fields.UUID(required=True)
    disabled = fields.Bool(required=True)


class CredentialCreate(WireSchema):
    """A key to make; its days are brought within 1 to 365."""

    name = fields.Str(required=True)
    days = JSONInteger(data_key="expiresInDays", load_default=90)


class CredentialCreated(Schema):
    """A key, shown this one time."""

    id = fields.UUID(required=True)
    key = fields.Str(required=True)
    prefix = fields.Str(required=True)
    expires_at = UTCDateTime(data_key="expiresAt", required=True)
    note = fields.Str(required=True)


class CredentialOut(Schema):
    """What is kept of a key."""

    id = fields.UUID(required=True)
    name = fields.Str(required=True)
    prefix = fields.Str(required=True)
    created_at = UTCDateTime(data_key="createdAt", required=True)
    expires_at = UTCDateTime(data_key="expiresAt", required=True)
    last_used_at = UTCDateTime(data_key="lastUsedAt", allow_none=True, required=True)
    revoked_at = UTCDateTime(data_key="revokedAt", allow_none=True, required=True)


class NewOwner(WireSchema):
    """Who answers for an account from now on."""

    new_owner = fields.UUID(required=True)


class OwnerOut(Schema):
    """Who answers for an account."""

    id = fields.UUID(required=True)
    owner_of_record = fields.UUID(required=True)


class ActAs(WireSchema):
    """Who may order work in an account's name."""

    user_id = fields.UUID(
        data_key="userId",
        required=True,
        error_messages={"invalid_uuid": "userId must be a UUID"},
    )


class TokenRequest(WireSchema):
    """The form of a client credentials grant (RFC 6749)."""

    grant_type = fields.Str(load_default="", metadata={"description": "`client_credentials`"})
    client_id = fields.Str(load_default="", metadata={"description": "id of the account"})
    client_secret = fields.Str(load_default="", metadata={"description": "one of its keys"})


class ClientToken(Schema):
    """An access token, spelled as in RFC 6749."""

    access_token = fields.Str(required=True)
    token_type = fields.Constant("Bearer", required=True)
    expires_in = fields.Int(required=True)
