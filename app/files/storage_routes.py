"""Endpoints of the platform's storage.

Source: REST contract part 20, section 11.2.
"""

from __future__ import annotations

from typing import Any

from flask import Response, request

from app.files import storage
from app.files.models import Bucket, StorageObject
from app.files.responses import MULTIPART, content_of, download
from app.files.schemas import (
    BucketNameOut,
    BucketOut,
    DeletedOut,
    FolderOut,
    ObjectOut,
    StepOut,
    UpdatedOut,
    UploadedOut,
)
from app.files.storage_rows import ListedObject
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.parsing import parse_object
from app.http.uploads import first_file
from app.http.views import View

blp = Blueprint("storage", __name__, description="The platform's own storage")
OBJECTS = f"{PREFIX}/storage/objects/<bucket>"


def _may(action: str) -> gates.Gate:
    return gates.in_service(f"storage:{action} | storage:{{bucket}}:{action}")


@blp.route(f"{PREFIX}/storage/buckets")
class Buckets(View):
    """All buckets."""

    @_may("read")
    @blp.response(200, BucketOut(many=True))
    @blp.doc(summary="List buckets")
    def get(self) -> list[Bucket]:
        """Return the readable ones by name."""
        return storage.list_buckets(self.uow.session, self.actor)

    @_may("admin")
    @blp.response(201, BucketNameOut)
    @blp.doc(summary="Create a bucket")
    def post(self) -> dict[str, str]:
        """Create an empty bucket."""
        body = parse_object(request.get_data())
        return {"name": storage.create_bucket(self.uow, self.actor, body)}


@blp.route(f"{PREFIX}/storage/buckets/<name>")
class BucketView(View):
    """One bucket."""

    @_may("admin")
    @blp.response(200, DeletedOut)
    @blp.doc(summary="Delete an empty bucket")
    def delete(self, name: str) -> dict[str, str]:
        """Delete the bucket."""
        storage.delete_bucket(self.uow, self.actor, name)
        return {"deleted": name}


@blp.route(OBJECTS)
class Objects(View):
    """Objects of a bucket."""

    @_may("read")
    @blp.response(200, ObjectOut(many=True))
    @blp.doc(
        summary="List the objects in a folder",
        parameters=[{"in": "query", "name": "parent_id", "schema": {"type": "string"}}],
    )
    def get(self, bucket: str) -> list[ListedObject]:
        """Return folders first, then files by name."""
        parent = request.args.get("parent_id")
        return storage.list_objects(self.uow.session, self.actor, bucket, parent)

    @_may("write")
    @blp.response(201, FolderOut)
    @blp.doc(summary="Create a folder")
    def post(self, bucket: str) -> dict[str, Any]:  # Any: JSON values
        """Create an empty folder."""
        body = parse_object(request.get_data())
        made = storage.create_folder(self.uow, self.actor, bucket, body)
        return {"id": made.id, "name": made.name, "is_folder": True}


@blp.route(f"{OBJECTS}/upload")
class ObjectUpload(View):
    """Files of a bucket."""

    transactional = False

    @_may("write")
    @blp.response(201, UploadedOut)
    @blp.doc(summary="Store a file in a bucket", requestBody=MULTIPART)
    def post(self, bucket: str) -> dict[str, Any]:  # Any: JSON values
        """Store the first file of the body."""
        with self.platform.uow() as uow:
            storage.check_upload(uow.session, self.actor, bucket)
        limit = self.platform.settings.http.max_body_bytes
        with first_file(request, max_bytes=limit) as upload, self.platform.uow() as uow:
            parent = upload.fields.get("parent_id")
            object_id, file = storage.upload(uow, self.actor, bucket, content_of(upload), parent)
        return {
            "id": object_id,
            "name": file.name,
            "content_type": file.content_type,
            "size": file.size,
        }


@blp.route(f"{OBJECTS}/<object_id>")
class ObjectContent(View):
    """Content of an object, which in a public bucket needs no token."""

    transactional = False

    @gates.public
    @blp.doc(summary="Download a file; needs storage:read unless the bucket is public")
    def get(self, bucket: str, object_id: str) -> Response:
        """Stream the file."""
        with self.platform.uow() as uow:
            known = storage.find_bucket(uow.session, bucket)
            public = known is not None and known.public
            actor = None if public else self.authenticate(uow.session)
            found = storage.open_object(uow.session, actor, bucket, object_id)
        return download(self.platform, found, **{"Content-Security-Policy": "sandbox"})


@blp.route(f"{OBJECTS}/<object_id>")
class ObjectView(View):
    """One object."""

    @_may("write")
    @blp.response(200, UpdatedOut)
    @blp.doc(summary="Rename or move an object")
    def patch(self, bucket: str, object_id: str) -> dict[str, Any]:  # Any: JSON values
        """Change name or folder; an empty ``parent_id`` is the root."""
        body = parse_object(request.get_data())
        storage.change(self.uow, self.actor, bucket, object_id, body)
        return {"id": object_id, "updated": True}

    @_may("delete")
    @blp.response(200, DeletedOut)
    @blp.doc(summary="Delete an object")
    def delete(self, bucket: str, object_id: str) -> dict[str, str]:
        """Delete the object with everything in it."""
        storage.delete(self.uow, self.actor, bucket, object_id)
        return {"deleted": object_id}


@blp.route(f"{OBJECTS}/<object_id>/ancestors")
class Ancestors(View):
    """What an object lies in."""

    @_may("read")
    @blp.response(200, StepOut(many=True))
    @blp.doc(summary="Show the path of an object")
    def get(self, bucket: str, object_id: str) -> list[StorageObject]:
        """Return the steps from the root to the object."""
        return storage.path_of(self.uow.session, self.actor, bucket, object_id)
