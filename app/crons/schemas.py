"""Wire shapes of crons."""

from __future__ import annotations

from marshmallow import Schema, ValidationError, fields, validates

from app.crons.rules import POLICIES
from app.http.schemas import UTCDateTime, WireSchema


class _CronIn(WireSchema):
    nullable = frozenset({"payload", "timezone"})

    @validates("overlap_policy")
    def known_policy(self, value: object, **_kwargs: object) -> None:
        """Answer every wrong value with the same text."""
        if value not in POLICIES:
            raise ValidationError("overlapPolicy must be 'skip' or 'queue'")


class CronCreate(_CronIn):
    """A cron to create; the payload is any JSON value."""

    name = fields.Str(required=True)
    schedule = fields.Str(required=True)
    timezone = fields.Str(load_default=None, allow_none=True)
    payload = fields.Raw(load_default=dict, allow_none=True)
    overlap_policy = fields.Raw(data_key="overlapPolicy", load_default="skip")
    enabled = fields.Bool(load_default=True, truthy={True}, falsy={False})
    run_as = fields.Raw(data_key="runAs", load_default=None)


class CronPatch(_CronIn):
    """Fields of a cron to change; null clears the timezone."""

    name = fields.Str()
    schedule = fields.Str()
    timezone = fields.Str(allow_none=True)
    payload = fields.Raw(allow_none=True)
    overlap_policy = fields.Raw(data_key="overlapPolicy")
    enabled = fields.Bool(truthy={True}, falsy={False})


class CronOut(Schema):
    """A cron; ``pgJobId`` is null while it is disabled."""

    id = fields.UUID(required=True)
    app_id = fields.Str(required=True, data_key="appId")
    name = fields.Str(required=True)
    schedule = fields.Str(required=True)
    timezone = fields.Str(required=True, allow_none=True)
    payload = fields.Raw(required=True)
    overlap_policy = fields.Str(required=True, data_key="overlapPolicy")
    enabled = fields.Bool(required=True)
    pg_job_id = fields.Int(required=True, allow_none=True, data_key="pgJobId")
    created_by = fields.UUID(required=True, allow_none=True, data_key="createdBy")
    created_at = UTCDateTime(required=True, data_key="createdAt")
    updated_at = UTCDateTime(required=True, data_key="updatedAt")


class CronTriggered(Schema):
    """The answer to a trigger."""

    msg_id = fields.Int(required=True, data_key="msgId")


class CronRunOut(Schema):
    """What one tick or trigger did; it tells of the enqueueing, not of the handler."""

    runid = fields.Int(required=True)
    job_pid = fields.Constant(None, data_key="jobPid")
    status = fields.Str(required=True)
    return_message = fields.Str(required=True, allow_none=True, data_key="returnMessage")
    start_time = UTCDateTime(required=True, allow_none=True, data_key="startTime")
    end_time = UTCDateTime(required=True, allow_none=True, data_key="endTime")
    scheduled_for = UTCDateTime(required=True, allow_none=True, data_key="scheduledFor")
    msg_id = fields.Int(required=True, allow_none=True, data_key="msgId")
