"""Endpoints of files of apps and of one-time addresses.

Source: REST contract part 20, section 11.1.
"""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request

from app.apps import service as apps_service
from app.core.errors import Invalid, NotFound
from app.files import service
from app.files.responses import MULTIPART, content_of, download
from app.files.schemas import DeletedOut, KeptOnDiskOut, ReceivedOut, StoredOut
from app.files.service import FileInfo
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.uploads import first_file, raw_body
from app.http.views import View

blp = Blueprint("files", __name__, description="Files of apps")
RAW = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}


@blp.route(f"{PREFIX}/apps/<app_id>/upload")
class DiskUpload(View):
    """Files on disk."""

    transactional = False

    @gates.signed_in
    @blp.response(201, KeptOnDiskOut)
    @blp.doc(summary="Keep a file on disk for the app's worker", requestBody=MULTIPART)
    def post(self, app_id: str) -> dict[str, object]:
        """Return the file's id, which with the extension is its name on disk."""
        settings = self.platform.settings
        with self.platform.uow() as uow:
            apps_service.require(uow.session, app_id)
        with first_file(request, max_bytes=settings.http.max_body_bytes) as upload:
            content = content_of(upload)
            file_id = service.keep_on_disk(
                settings.data_dir,
                app_id=app_id,
                content=content,
                quota=settings.http.app_files_max_bytes,
            )
        return {"file_id": file_id, "original_name": content.name, "size": content.size}


@blp.route(f"{PREFIX}/apps/<app_id>/storage/upload")
class Uploads(View):
    """Files in Postgres."""

    transactional = False

    @gates.signed_in
    @blp.response(201, StoredOut)
    @blp.doc(summary="Store a file", requestBody=MULTIPART)
    def post(self, app_id: str) -> FileInfo:
        """Return the stored file."""
        http = self.platform.settings.http
        with self.platform.uow() as uow:
            apps_service.require(uow.session, app_id)
        with (
            first_file(request, max_bytes=http.max_body_bytes) as upload,
            self.platform.uow() as uow,
        ):
            return service.store(
                uow,
                self.actor.user_id,
                app_id=app_id,
                content=content_of(upload),
                quota=http.app_files_max_bytes,
            )


@blp.route(f"{PREFIX}/apps/<app_id>/storage/<file_id>")
class FileView(View):
    """One stored file."""

    transactional = False

    @gates.signed_in
    @blp.doc(summary="Download a file")
    def get(self, app_id: str, file_id: str) -> Response:
        """Stream the file."""
        with self.platform.uow() as uow:
            found = service.require(uow.session, app_id, file_id)
        return download(self.platform, found)

    @gates.signed_in
    @blp.response(200, DeletedOut)
    @blp.doc(summary="Delete a file")
    def delete(self, app_id: str, file_id: str) -> dict[str, str]:
        """Delete the file; its uploader may, and who has all rights in the app."""
        with self.platform.uow() as uow:
            service.remove(uow, self.actor, app_id=app_id, file_id=file_id)
        return {"deleted": file_id}


@blp.route(f"{PREFIX}/storage/upload/<nonce>")
class OneTimeUpload(View):
    """Where a worker sends a file."""

    transactional = False

    @gates.public
    @blp.response(201, ReceivedOut)
    @blp.doc(summary="Send a file to a one-time address", requestBody=RAW)
    def post(self, nonce: str) -> FileInfo:
        """Store the body."""
        http = self.platform.settings.http
        with self.platform.uow() as uow:
            address = service.take_nonce(uow, nonce, service.UPLOAD)
        with raw_body(request, max_bytes=http.max_body_bytes) as upload:
            if address.size and upload.size > address.size:
                raise Invalid("file is larger than declared")
            content = replace(
                content_of(upload), name=address.name, content_type=address.content_type
            )
            with self.platform.uow() as uow:
                return service.store(
                    uow,
                    address.user_id,
                    app_id=address.app_id,
                    content=content,
                    quota=http.app_files_max_bytes,
                )


@blp.route(f"{PREFIX}/storage/download/<nonce>")
class OneTimeDownload(View):
    """Where a worker fetches a file."""

    transactional = False

    @gates.public
    @blp.doc(summary="Fetch a file from a one-time address")
    def get(self, nonce: str) -> Response:
        """Stream the file."""
        with self.platform.uow() as uow:
            address = service.take_nonce(uow, nonce, service.DOWNLOAD)
            found = address.file_id and service.describe(
                uow.session, address.app_id, address.file_id
            )
        if not found:
            raise NotFound("unknown or expired nonce")
        return download(self.platform, found)


@blp.route(f"{PREFIX}/apps/<app_id>/icon")
class Icon(View):
    """The icon of an app."""

    transactional = False

    @gates.signed_in
    @blp.doc(
        summary="Get the icon of an app",
        responses={"200": {"description": "the picture", "content": RAW["content"]}},
    )
    def get(self, app_id: str) -> Response:
        """Return the picture; scripts in it run nowhere."""
        with self.platform.uow() as uow:
            icon = service.icon(uow.session, app_id)
        return Response(
            service.stream(self.platform, icon.id),
            content_type=icon.content_type,
            headers={
                "Content-Length": str(icon.size),
                "Cache-Control": "public, max-age=3600, stale-while-revalidate=86400",
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
                "X-Content-Type-Options": "nosniff",
            },
        )
