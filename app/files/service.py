"""Files of apps: stored in Postgres, or on disk for the app's worker; one-time addresses.

Source: REST contract part 20, section 11.1; ADR 0010.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Final
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.actor import Actor
from app.core.clock import utc_now
from app.core.errors import Invalid, NotFound, TooLarge
from app.core.ids import parse_uuid
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.files import names, repository
from app.files.models import FileNonce, StoredFile
from config.settings import JobSettings

UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
UPLOAD_LIFE: Final = timedelta(seconds=60)
DOWNLOAD_LIFE: Final = timedelta(seconds=300)
ON_DISK: Final = frozenset(
    [
        "csv",
        "json",
        "xml",
        "txt",
        "pdf",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "webp",
        "svg",
        "xlsx",
        "xls",
        "doc",
        "docx",
        "zip",
        "gz",
        "parquet",
    ]
)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes to store, and what their sender calls them."""

    name: str
    content_type: str
    size: int
    stream: IO[bytes]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored file without its content."""

    id: UUID
    name: str
    content_type: str
    size: int


# --- files in Postgres -----------------------------------------------------------------------


def store(
    uow: UnitOfWork,
    user_id: UUID | None,
    *,
    app_id: str | None,
    content: Content,
    quota: int = 0,
) -> FileInfo:
    """Store a file.

    Args:
        uow: the unit of work.
        user_id: who uploads it.
        app_id: whose file it is; None = the platform's storage.
        content: what to store.
        quota: bytes the files of the app may take; 0 = any.

    Raises:
        Invalid: it is empty.
        TooLarge: the app has no room for it.
    """
    if content.size == 0:
        raise Invalid("file is empty")
    if app_id is not None and quota:
        _check_room(repository.bytes_of_app(uow.session, app_id), content.size, app_id, quota)
    file = StoredFile(
        id=uuid4(),
        app_id=app_id,
        name=names.file_name(content.name),
        content_type=names.content_type(content.content_type),
        size=content.size,
        uploaded_by=user_id,
    )
    repository.add(uow.session, file, content.stream)
    return _info(file)


def _check_room(used: int, more: int, app_id: str, quota: int) -> None:
    if used + more > quota:
        raise TooLarge(f"the files of app '{app_id}' may take {quota} bytes, {used} are taken")


def _info(file: StoredFile) -> FileInfo:
    return FileInfo(file.id, file.name, file.content_type, file.size)


def describe(session: Session, app_id: str | None, file_id: UUID) -> FileInfo | None:
    """Return a file of an app, or of the platform's storage."""
    found = repository.find(session, file_id, app_id)
    return None if found is None else _info(found)


def require(session: Session, app_id: str, file_id: str) -> FileInfo:
    """Return a file of an app.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: no such app, or no such file of it.
    """
    apps_service.require(session, app_id)
    found = describe(session, app_id, parse_uuid(file_id))
    if found is None:
        raise NotFound(f"no file '{file_id}'")
    return found


def read(session: Session, file_id: UUID) -> bytes:
    """Return the content of a file; for small ones."""
    return b"".join(repository.pieces(session, file_id))


def stream(platform: Platform, file_id: UUID) -> Iterator[bytes]:
    """Yield the content of a file piece by piece, holding no transaction between two."""
    seq = 0
    while True:
        with platform.uow.reading() as session:
            data = repository.piece(session, file_id, seq)
        if data is None:
            return
        yield data
        seq += 1


def remove(uow: UnitOfWork, actor: Actor, *, app_id: str, file_id: str) -> None:
    """Delete a file of an app.

    Raises:
        NotFound: no such app, or no such file of it.
        Forbidden: the actor neither uploaded it nor has all rights in the app.
    """
    found = require(uow.session, app_id, file_id)
    file = repository.find(uow.session, found.id, app_id)
    if file is not None and (actor.user_id is None or file.uploaded_by != actor.user_id):
        actor.require(f"app:{app_id}:*")
    repository.remove(uow.session, found.id)


def discard(uow: UnitOfWork, file_id: UUID) -> None:
    """Delete a file that the platform itself keeps for an app."""
    repository.remove(uow.session, file_id)


def icon(session: Session, app_id: str) -> FileInfo:
    """Return the file of an app's icon.

    Raises:
        NotFound: it has none.
    """
    found = apps_service.icon_of(session, app_id)
    file = None if found is None else describe(session, app_id, found)
    if file is None:
        raise NotFound(f"no icon for app '{app_id}'")
    return file


# --- files on disk ---------------------------------------------------------------------------


def keep_on_disk(root: Path, *, app_id: str, content: Content, quota: int = 0) -> UUID:
    """Write a file to the app's directory of uploads, for its worker; return its id.

    Raises:
        Invalid: it is empty, or of a type that is not accepted.
        TooLarge: the app has no room for it.
    """
    extension = Path(names.file_name(content.name)).suffix.lower().removeprefix(".")
    if extension not in ON_DISK:
        raise Invalid(f"file type '.{extension}' is not accepted")
    if content.size == 0:
        raise Invalid("file is empty")
    folder = root / "uploads" / app_id
    folder.mkdir(parents=True, exist_ok=True)
    if quota:
        used = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
        _check_room(used, content.size, app_id, quota)
    file_id = uuid4()
    unfinished = folder / f".{file_id}"
    try:
        with unfinished.open("wb") as target:
            shutil.copyfileobj(content.stream, target)
        unfinished.replace(folder / f"{file_id}.{extension}")
    finally:
        unfinished.unlink(missing_ok=True)
    return file_id


# --- one-time addresses ----------------------------------------------------------------------


def upload_path(
    uow: UnitOfWork,
    user_id: UUID | None,
    *,
    app_id: str,
    name: str,
    content_type: str = names.UNKNOWN_TYPE,
    size: int = 0,
) -> str:
    """Return the path to which one file of an app can be sent, once, within 60 s.

    Args:
        uow: the unit of work.
        user_id: in whose name the file is stored.
        app_id: whose file it becomes.
        name: its name.
        content_type: its type.
        size: more bytes than these are refused; 0 = not declared.
    """
    nonce = secrets.token_urlsafe(32)
    repository.add_nonce(
        uow.session,
        FileNonce(
            nonce_hash=_hash(nonce),
            kind=UPLOAD,
            app_id=app_id,
            user_id=user_id,
            name=names.file_name(name),
            content_type=names.content_type(content_type),
            size=size,
            expires_at=utc_now() + UPLOAD_LIFE,
        ),
    )
    return f"/api/v1/storage/upload/{nonce}"


def download_path(uow: UnitOfWork, *, app_id: str, file_id: UUID) -> str:
    """Return the path from which a file of an app can be fetched, once, within 300 s."""
    nonce = secrets.token_urlsafe(32)
    repository.add_nonce(
        uow.session,
        FileNonce(
            nonce_hash=_hash(nonce),
            kind=DOWNLOAD,
            app_id=app_id,
            file_id=file_id,
            expires_at=utc_now() + DOWNLOAD_LIFE,
        ),
    )
    return f"/api/v1/storage/download/{nonce}"


def take_nonce(uow: UnitOfWork, nonce: str, kind: str) -> FileNonce:
    """Use up a one-time address.

    Raises:
        NotFound: there is none, it is of the other kind, was used, or has expired.
    """
    found = repository.take_nonce(uow.session, _hash(nonce), kind)
    if found is None:
        raise NotFound("unknown or expired nonce")
    return found


def _hash(nonce: str) -> bytes:
    return hashlib.sha256(nonce.encode()).digest()


def prune(uow: UnitOfWork, _settings: JobSettings) -> int:
    """Delete some one-time addresses that expired; return how many."""
    return repository.prune_nonces(uow.session)
