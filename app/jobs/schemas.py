"""Wire shapes of jobs."""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from app.core.errors import Invalid
from app.http.schemas import JSONInteger, WireSchema

MAX_DELAY_S = 86_400
MAX_KEY_CHARS = 200
MAX_BATCH = 1000


class WholeNumber(JSONInteger):
    """A JSON integer within bounds; the message names them."""

    def __init__(self, low: int, high: int, **kwargs: Any) -> None:  # Any: marshmallow's options
        self._bounds = (low, high)
        super().__init__(**kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        number = super()._deserialize(value, attr, data, **kwargs)
        low, high = self._bounds
        if not low <= number <= high:
            raise ValidationError(f"field '{attr}' must be {low} to {high}")
        return number


class JobEnqueue(WireSchema):
    """A job to enqueue; ``payload`` is any JSON value, null included."""

    class Meta:
        """Contract part 10, section 1.1."""

        unknown = EXCLUDE

    nullable = frozenset({"payload"})

    payload = fields.Raw(load_default=dict, allow_none=True)
    user_id = fields.Raw(load_default=None)
    delay_s = WholeNumber(0, MAX_DELAY_S, data_key="delay", load_default=0)
    priority = WholeNumber(-10, 10, load_default=0)
    max_attempts = WholeNumber(1, 20, data_key="maxAttempts", load_default=1)
    idempotency_key = fields.Str(
        data_key="idempotencyKey",
        load_default=None,
        validate=validate.Length(
            1, MAX_KEY_CHARS, error="field 'idempotencyKey' must be 1 to 200 characters"
        ),
    )


class JobBatch(WireSchema):
    """1 to 1000 jobs to enqueue together."""

    jobs = fields.List(
        fields.Nested(JobEnqueue),
        required=True,
        validate=validate.Length(1, MAX_BATCH, error="field 'jobs' must have 1 to 1000 elements"),
    )


class JobEnqueued(Schema):
    """The answer to an enqueue."""

    msg_id = fields.Int(required=True)


class JobsEnqueued(Schema):
    """The answer to a batch."""

    msg_ids = fields.List(fields.Int(), required=True)


class JobOut(Schema):
    """A job; ``archived_at``, ``reason`` and ``failed_at`` belong to ended ones."""

    msg_id = fields.Int(required=True)
    app_id = fields.Str(required=True)
    payload = fields.Raw(required=True)
    user_id = fields.UUID(required=True, allow_none=True)
    read_ct = fields.Int(required=True)
    enqueued_at = fields.DateTime(required=True)
    archived_at = fields.DateTime()
    reason = fields.Str()
    failed_at = fields.DateTime()


class JobDetailOut(JobOut):
    """One job with all that is known about it."""

    state = fields.Str(required=True)
    vt = fields.DateTime(required=True, allow_none=True)
    attempts = fields.Int(required=True)
    max_attempts = fields.Int(required=True)
    priority = fields.Int(required=True)
    progress = fields.Float(required=True, allow_none=True)
    progress_note = fields.Str(required=True, allow_none=True)
    last_error = fields.Str(required=True, allow_none=True)


def parse_limit(value: str | None, *, default: int, most: int) -> int:
    """Return the ``limit`` of a query string, cut to ``most``.

    Raises:
        Invalid: not a number, or below 1.
    """
    if value is None:
        return default
    if not (value.isascii() and value.isdigit()) or int(value[:20]) < 1:
        raise Invalid("invalid limit")
    return min(int(value[:20]), most)


def parse_msg_id(value: str) -> int:
    """Return the message id of a path.

    Raises:
        Invalid: it is not spelled like one.
    """
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise Invalid(f"not a valid job id: '{value}'")
    return int(value)
