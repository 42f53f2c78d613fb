"""Wire shapes of hooks."""

from __future__ import annotations

import base64
from typing import Any

from marshmallow import Schema, fields

from app.http.schemas import UTCDateTime


class HookOut(Schema):
    """A hook on an entity."""

    id = fields.Str(required=True)
    app_id = fields.Str(required=True)
    entity = fields.Str(required=True)
    operation = fields.Str(required=True)
    action_type = fields.Str(required=True)
    action_config = fields.Dict(required=True)
    active = fields.Bool(required=True)
    created_by = fields.Str(allow_none=True)
    created_at = UTCDateTime(required=True)
    updated_at = UTCDateTime(required=True)


class OkOut(Schema):
    """``{"ok": true}``."""

    ok = fields.Bool(required=True)


class WebhookOut(Schema):
    """A webhook with what its caller needs to know."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    method = fields.Str(required=True)
    token = fields.Str(required=True)
    url = fields.Str(required=True)
    signing_secret = fields.Str(required=True, data_key="signingSecret")
    created_at = UTCDateTime(required=True, data_key="createdAt")


class DeliveryOut(Schema):
    """A call of a webhook."""

    id = fields.Int(required=True)
    status = fields.Str(required=True)
    error = fields.Str(allow_none=True, required=True)
    msg_id = fields.Int(allow_none=True, required=True, data_key="msgId")
    run_id = fields.Str(allow_none=True, required=True, data_key="runId")
    redelivery_of = fields.Int(allow_none=True, required=True, data_key="redeliveryOf")
    received_at = UTCDateTime(required=True, data_key="receivedAt")
    finished_at = UTCDateTime(allow_none=True, required=True, data_key="finishedAt")


class Base64(fields.Field[bytes]):
    """Bytes, written in base64."""

    def _serialize(
        self, value: Any, attr: str | None, obj: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        return base64.b64encode(value).decode()


class DeliveryDetailOut(DeliveryOut):
    """A call of a webhook as it came in."""

    headers = fields.Dict(keys=fields.Str(), values=fields.Str(), required=True)
    body = Base64(required=True, data_key="rawBody")
