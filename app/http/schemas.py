"""The base of wire schemas."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load

from app.core.clock import rfc3339


class WireSchema(Schema):
    """A body: unknown fields are ignored, null in an optional field means absent.

    A PATCH schema that gives null a meaning lists those wire names in ``nullable``.
    """

    class Meta:
        """Contract part 10, section 1.1."""

        unknown = EXCLUDE

    nullable: ClassVar[frozenset[str]] = frozenset()

    @pre_load
    def drop_nulls(self, data: Any, **_kwargs: Any) -> Any:  # Any: marshmallow's signature
        """Forget absent values."""
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k in self.nullable}


class UTCDateTime(fields.DateTime):
    """A time written with ``Z`` (RFC 3339)."""

    def _serialize(
        self, value: Any, attr: str | None, obj: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        return None if value is None else rfc3339(value)


class JSONInteger(fields.Integer):
    """A JSON integer: neither a text nor a truth value."""

    def __init__(self, **kwargs: Any) -> None:  # Any: marshmallow's options
        super().__init__(strict=True, **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Not a valid integer.")
        return super()._deserialize(value, attr, data, **kwargs)


class MessageOut(Schema):
    """``{"message": "..."}``."""

    message = fields.Str(required=True)


class ErrorOut(Schema):
    """The body of every non-2xx answer."""

    error = fields.Str(required=True, metadata={"description": "text for a human"})
