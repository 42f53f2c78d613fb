"""Stored files in pieces, one-time addresses, and the buckets of the platform's storage."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base


class StoredFile(Base):
    """A file; its content is in pieces.

    Attributes:
        app_id: whose file it is; None = it belongs to a bucket.
        size: bytes.
    """

    __tablename__ = "files"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    app_id: Mapped[str | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    uploaded_by: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class FilePiece(Base):
    """Some bytes of a file, so that no process ever holds a whole one."""

    __tablename__ = "file_pieces"

    file_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.files.id", ondelete="CASCADE"), primary_key=True
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]


class FileNonce(Base):
    """A one-time address, found by the hash of its secret part.

    Attributes:
        kind: ``upload`` or ``download``.
        user_id: in whose name an upload is.
        size: declared bytes of an upload; 0 = not declared.
        file_id: what a download gives.
    """

    __tablename__ = "file_nonces"

    nonce_hash: Mapped[bytes] = mapped_column(primary_key=True)
    kind: Mapped[str]
    app_id: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"), index=True
    )
    user_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(server_default=text("''"))
    content_type: Mapped[str] = mapped_column(server_default=text("''"))
    size: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    file_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.files.id", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class Bucket(Base):
    """A bucket of the platform's storage.

    Attributes:
        public: anybody may read its files.
        max_file_size: bytes; None = only the limit of a request.
        allowed_types: content types, ``image/*`` style; None = all.
    """

    __tablename__ = "storage_buckets"

    name: Mapped[str] = mapped_column(primary_key=True)
    public: Mapped[bool] = mapped_column(server_default=text("false"))
    max_file_size: Mapped[int | None] = mapped_column(BigInteger)
    allowed_types: Mapped[list[str] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class StorageObject(Base):
    """A file or a folder in a bucket.

    Attributes:
        file_id: None = a folder.
        details: ``metadata`` of the endpoints.
    """

    __tablename__ = "storage_objects"
    __table_args__ = (
        UniqueConstraint("bucket", "parent_id", "name", postgresql_nulls_not_distinct=True),
        Index(None, "parent_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.storage_buckets.name"))
    parent_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.storage_objects.id", ondelete="CASCADE")
    )
    name: Mapped[str]
    file_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.files.id", ondelete="CASCADE"), unique=True
    )
    details: Mapped[dict[str, Any]] = mapped_column(
        "metadata", JSONB, server_default=text("'{}'")
    )  # Any: JSON values
    uploaded_by: Mapped[UUID | None] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
