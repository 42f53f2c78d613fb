"""Rows of files, their pieces, and one-time addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from app.files.models import FileNonce, FilePiece, StoredFile

PIECE_BYTES = 256 * 1024
PRUNED_AT_ONCE = 1000


def add(session: Session, file: StoredFile, content: IO[bytes]) -> None:
    """Store a file with its content, read from where ``content`` stands."""
    session.add(file)
    session.flush()  # pieces refer to it
    for seq, data in enumerate(iter(lambda: content.read(PIECE_BYTES), b"")):
        session.execute(insert(FilePiece).values(file_id=file.id, seq=seq, data=data))


def find(session: Session, file_id: UUID, app_id: str | None) -> StoredFile | None:
    """Return a file of an app, or of the platform's storage."""
    owner = StoredFile.app_id.is_(None) if app_id is None else StoredFile.app_id == app_id
    wanted = select(StoredFile).where(StoredFile.id == file_id, owner)
    return session.execute(wanted).scalar_one_or_none()


def piece(session: Session, file_id: UUID, seq: int) -> bytes | None:
    """Return a piece of a file; None behind its end."""
    wanted = select(FilePiece.data).where(FilePiece.file_id == file_id, FilePiece.seq == seq)
    return session.execute(wanted).scalar_one_or_none()


def pieces(session: Session, file_id: UUID) -> Iterator[bytes]:
    """Yield the content of a file."""
    wanted = select(FilePiece.data).where(FilePiece.file_id == file_id).order_by(FilePiece.seq)
    yield from session.execute(wanted.execution_options(yield_per=4)).scalars()


def remove(session: Session, file_id: UUID) -> None:
    """Delete a file with its content and whatever shows it."""
    session.execute(delete(StoredFile).where(StoredFile.id == file_id))


def bytes_of_app(session: Session, app_id: str) -> int:
    """Return how many bytes the files of an app take."""
    total = select(func.coalesce(func.sum(StoredFile.size), 0)).where(StoredFile.app_id == app_id)
    return int(session.execute(total).scalar_one())


# --- one-time addresses ----------------------------------------------------------------------


def add_nonce(session: Session, nonce: FileNonce) -> None:
    """Store a one-time address."""
    session.add(nonce)
    session.flush()  # a file or user that is gone shows here


def take_nonce(session: Session, nonce_hash: bytes, kind: str) -> FileNonce | None:
    """Return a one-time address that is still good, and use it up."""
    used = (
        delete(FileNonce)
        .where(
            FileNonce.nonce_hash == nonce_hash,
            FileNonce.kind == kind,
            FileNonce.expires_at > func.now(),
        )
        .returning(FileNonce)
    )
    return session.execute(used).scalar_one_or_none()


def prune_nonces(session: Session) -> int:
    """Delete some one-time addresses that expired; return how many."""
    expired = (
        select(FileNonce.nonce_hash).where(FileNonce.expires_at < func.now()).limit(PRUNED_AT_ONCE)
    )
    gone = (
        delete(FileNonce).where(FileNonce.nonce_hash.in_(expired)).returning(FileNonce.nonce_hash)
    )
    return len(session.execute(gone).scalars().all())
