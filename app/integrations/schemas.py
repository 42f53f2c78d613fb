"""Wire shapes of integrations."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.http.schemas import UTCDateTime, WireSchema

LABEL = validate.Length(max=200, error="field 'label' must have at most 200 characters")


def _json(name: str) -> fields.Dict:
    return fields.Dict(required=True, allow_none=True, attribute=name, data_key=name)


class IntegrationOut(Schema):
    """An installed integration."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    version = fields.Str(required=True, allow_none=True)
    description = fields.Str(required=True, allow_none=True)
    actions = fields.List(fields.Dict(), required=True)
    config_schema = _json("configSchema")
    user_auth = _json("userAuth")
    webhooks = fields.List(fields.Raw(), required=True)
    instructions = fields.Str(required=True, allow_none=True)
    configured = fields.Bool(required=True)


class CatalogOut(IntegrationOut):
    """An integration of the catalog."""

    class Meta:
        """All but whether it is configured."""

        exclude = ("configured",)

    installed = fields.Bool(required=True)


class DeployedOut(Schema):
    """The answer to a deploy."""

    message = fields.Str(required=True)
    webhook_token = fields.Str(required=True, data_key="webhookToken")


class ConfigCreate(WireSchema):
    """A named configuration to create."""

    label = fields.Str(required=True, validate=LABEL)
    credentials = fields.Dict(required=True)


class ConfigOut(Schema):
    """A named configuration, without its values."""

    id = fields.UUID(required=True)
    label = fields.Str(required=True)
    configured = fields.Bool(required=True)
    created_at = UTCDateTime(required=True, data_key="createdAt")


class ConfigCreated(Schema):
    """The answer to a new configuration."""

    id = fields.UUID(required=True)
    label = fields.Str(required=True)


class AuthStatus(Schema):
    """How many logins a user has, by state."""

    connected = fields.Bool(required=True)
    connection_count = fields.Int(required=True, data_key="connectionCount")
    dead_count = fields.Int(required=True, data_key="deadCount")


class LoginStart(Schema):
    """Where to send the browser, or the form to show."""

    type = fields.Str(required=True)
    url = fields.Str()
    schema = fields.Dict()


class CredentialsIn(WireSchema):
    """What a user typed in."""

    credentials = fields.Dict(required=True)
    label = fields.Str(load_default=None, validate=LABEL)


class CredentialsStored(Schema):
    """The answer to stored credentials."""

    message = fields.Str(required=True)
    connection_id = fields.UUID(required=True, data_key="connectionId")


class Delegate(WireSchema):
    """The agent a connection is lent to."""

    agent_app_id = fields.Str(required=True)


class ConnectionOut(Schema):
    """A connection of a user."""

    id = fields.UUID(required=True)
    integration_id = fields.Str(required=True, data_key="integrationId")
    user_id = fields.UUID(required=True, data_key="userId")
    label = fields.Str(required=True, allow_none=True)
    status = fields.Str(required=True)
    last_error = fields.Str(required=True, allow_none=True, data_key="lastError")
    created_at = UTCDateTime(required=True, data_key="createdAt")


class ConnectionPatch(WireSchema):
    """What may change of a connection."""

    label = fields.Str(load_default=None, validate=LABEL)


class BindingIn(WireSchema):
    """A binding to make."""

    integration_id = fields.Str(required=True, data_key="integrationId")
    connection_id = fields.Str(load_default=None, data_key="connectionId")
    scope = fields.Str(load_default=None)


class BindingOut(Schema):
    """A binding of an integration to an app; ``userId`` null: app-wide."""

    integration_id = fields.Str(required=True, data_key="integrationId")
    enabled = fields.Bool(required=True)
    connection_id = fields.UUID(required=True, allow_none=True, data_key="connectionId")
    user_id = fields.Function(lambda row: row.user_id or None, data_key="userId")
    created_at = UTCDateTime(required=True, data_key="createdAt")
