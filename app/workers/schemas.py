"""Wire shapes of workers."""

from __future__ import annotations

from marshmallow import Schema, fields


class DeployOut(Schema):
    """A deployment that answers."""

    message = fields.Str(required=True)
    migrationsApplied = fields.List(fields.Str(), required=True)  # noqa: N815 - wire name
    deploymentId = fields.Str(required=True)  # noqa: N815 - wire name


class StatusOut(Schema):
    """Status of an app's worker."""

    app_id = fields.Str(required=True)
    status = fields.Str(required=True)
    desired = fields.Str(required=True)
    deployment_id = fields.Str(required=True, allow_none=True)
    started_at = fields.Str(required=True, allow_none=True)
    restarts = fields.Int(required=True)
    last_error = fields.Str(required=True, allow_none=True)
    sandbox = fields.List(fields.Str(), required=True, allow_none=True)


class StatusesOut(Schema):
    """Status of every app with deployed code."""

    workers = fields.Dict(keys=fields.Str(), values=fields.Str(), required=True)
