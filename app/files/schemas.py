"""Wire shapes of files."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.http.schemas import UTCDateTime


class KeptOnDiskOut(Schema):
    """A file in the app's directory of uploads."""

    file_id = fields.Str(required=True)
    original_name = fields.Str(required=True)
    size = fields.Int(required=True)


class StoredOut(Schema):
    """A stored file of an app."""

    id = fields.Str(required=True, data_key="file_id")
    name = fields.Str(required=True)
    content_type = fields.Str(required=True)
    size = fields.Int(required=True)


class ReceivedOut(Schema):
    """A file that came through a one-time address."""

    id = fields.Str(required=True, data_key="file_id")
    name = fields.Str(required=True)
    size = fields.Int(required=True)


class DeletedOut(Schema):
    """What was deleted."""

    deleted = fields.Str(required=True)


class BucketOut(Schema):
    """A bucket."""

    name = fields.Str(required=True)
    public = fields.Bool(required=True)
    max_file_size = fields.Int(allow_none=True, required=True)
    allowed_types = fields.List(fields.Str(), allow_none=True, required=True)
    created_at = UTCDateTime(required=True)


class BucketNameOut(Schema):
    """A new bucket."""

    name = fields.Str(required=True)


class ObjectOut(Schema):
    """An object in a list."""

    id = fields.Str(required=True)
    bucket = fields.Str(required=True)
    parent_id = fields.Str(allow_none=True, required=True)
    name = fields.Str(required=True)
    is_folder = fields.Bool(required=True)
    content_type = fields.Str(allow_none=True, required=True)
    size = fields.Int(allow_none=True, required=True)
    metadata = fields.Dict(required=True)
    uploaded_by = fields.Str(allow_none=True, required=True)
    created_at = UTCDateTime(required=True)


class FolderOut(Schema):
    """A new folder."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    is_folder = fields.Bool(required=True)


class UploadedOut(Schema):
    """A new file in a bucket."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
    content_type = fields.Str(required=True)
    size = fields.Int(required=True)


class UpdatedOut(Schema):
    """A changed object."""

    id = fields.Str(required=True)
    updated = fields.Bool(required=True)


class StepOut(Schema):
    """One step of an object's path."""

    id = fields.Str(required=True)
    name = fields.Str(required=True)
