"""The icon that a deployed archive brings.

Source: REST contract part 20, section 3.11.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import PurePosixPath
from typing import Final

import structlog

from app.apps import service as apps_service
from app.core.uow import UnitOfWork
from app.files import service as files_service
from app.files.service import Content
from app.workers.events import DeploymentActivated
from workers_runtime.archive import inspect_archive

log = structlog.get_logger(__name__)

# Content type and first bytes by extension.
TYPES: Final = {
    ".png": ("image/png", b"\x89PNG"),
    ".jpg": ("image/jpeg", b"\xff\xd8\xff"),
    ".jpeg": ("image/jpeg", b"\xff\xd8\xff"),
    ".gif": ("image/gif", b"GIF8"),
    ".webp": ("image/webp", b"RIFF"),
    ".svg": ("image/svg+xml", b"<"),
    ".ico": ("image/x-icon", b"\0\0\1\0"),
}


def keep_icon(uow: UnitOfWork, event: DeploymentActivated) -> None:
    """Store the file that the manifest names as icon; whatever is wrong with it is logged."""
    declared = apps_service.manifest_of(uow.session, event.app_id).get("icon")
    if declared is None:
        return
    path = archive_path(declared)
    data = b"" if path is None else _read(event, path)
    if path is None or not is_picture(path, data):
        log.warning("icon_not_kept", app_id=event.app_id, path=declared)
        return
    content = Content(PurePosixPath(path).name, _type(path)[0], len(data), BytesIO(data))
    stored = files_service.store(uow, event.deployed_by, app_id=event.app_id, content=content)
    former = apps_service.replace_icon(uow, event.app_id, stored.id)
    if former is not None:
        files_service.discard(uow, former)


def archive_path(declared: str) -> str | None:
    """Return the path in an archive that a manifest's ``icon`` names; None if it may name none."""
    path = PurePosixPath(declared)
    if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in TYPES:
        return None
    return str(path)


def is_picture(path: str, data: bytes) -> bool:
    """Tell whether a file begins as its extension says; a text may begin with white space."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(_type(path)[1])


def _read(event: DeploymentActivated, path: str) -> bytes:
    contents = inspect_archive(event.open_archive(), keep=lambda name: name == path)
    return contents.kept.get(path, b"")


def _type(path: str) -> tuple[str, bytes]:
    return TYPES[PurePosixPath(path).suffix.lower()]
