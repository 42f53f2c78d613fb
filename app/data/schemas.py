"""Wire shapes of records, for the OpenAPI document: the fields are each app's own."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from app.http.schemas import WireSchema


class RecordOut(Schema):
    """A record: system columns and the fields of its entity."""

    id = fields.Str(required=True)
    created_at = fields.DateTime(required=True)
    updated_at = fields.DateTime(required=True)


def query_parameters() -> list[dict[str, Any]]:  # Any: OpenAPI's own format
    """Return the OpenAPI description of a list's parameters."""
    integers = {"limit": "at most 1000; none = all rows", "offset": "rows to skip"}
    texts = {
        "sort": "field to sort by, created_at unless given",
        "order": "asc or desc (default)",
        "linked": "true, or a comma list of app ids",
    }
    described = [(name, "integer", text) for name, text in integers.items()]
    described += [(name, "string", text) for name, text in texts.items()]
    return [
        {"in": "query", "name": name, "schema": {"type": kind}, "description": text}
        for name, kind, text in described
    ]


class Select(WireSchema):
    """A SELECT for the database browser."""

    sql = fields.Str(load_default="")
    schema = fields.Str(load_default=None)


class SelectOut(Schema):
    """Columns and rows."""

    columns = fields.List(fields.Str(), required=True)
    rows = fields.List(fields.List(fields.Raw(allow_none=True)), required=True)
    row_count = fields.Int(required=True)
