"""Files as HTTP answers, and multipart bodies as files."""

from __future__ import annotations

from flask import Response

from app.core.platform import Platform
from app.files import names, service
from app.files.service import Content, FileInfo
from app.http.uploads import Upload

MULTIPART = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        }
    },
}


def content_of(upload: Upload) -> Content:
    """Return what a client sent as something to store."""
    return Content(upload.name, upload.content_type, upload.size, upload.stream)


def download(platform: Platform, file: FileInfo, **headers: str) -> Response:
    """Stream a file as an attachment; no browser may guess its type."""
    return Response(
        service.stream(platform, file.id),
        content_type=file.content_type,
        headers={
            "Content-Length": str(file.size),
            "Content-Disposition": names.attachment(file.name),
            "X-Content-Type-Options": "nosniff",
            **headers,
        },
    )
