"""Rows of buckets and of the objects in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, literal, select
from sqlalchemy.orm import Session, aliased

from app.files.models import Bucket, StorageObject, StoredFile


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object with what its file says."""

    id: UUID
    bucket: str
    parent_id: UUID | None
    name: str
    is_folder: bool
    content_type: str | None
    size: int | None
    metadata: dict[str, Any]  # Any: JSON values
    uploaded_by: UUID | None
    created_at: datetime


def buckets(session: Session) -> list[Bucket]:
    """Return the buckets by name."""
    return list(session.execute(select(Bucket).order_by(Bucket.name)).scalars())


def bucket(session: Session, name: str, *, lock: bool = False) -> Bucket | None:
    """Return a bucket; ``lock`` keeps its tree as it is until the transaction ends."""
    wanted = select(Bucket).where(Bucket.name == name)
    return session.execute(wanted.with_for_update() if lock else wanted).scalar_one_or_none()


def remove_bucket(session: Session, name: str) -> None:
    """Delete an empty bucket."""
    session.execute(delete(Bucket).where(Bucket.name == name))


def is_empty(session: Session, name: str) -> bool:
    """Tell whether a bucket holds nothing."""
    found = select(StorageObject.id).where(StorageObject.bucket == name).limit(1)
    return session.execute(found).first() is None


def listed(session: Session, bucket_name: str, parent_id: UUID | None) -> list[ListedObject]:
    """Return what is in a folder: folders first, then by name."""
    same = (
        StorageObject.parent_id.is_(None)
        if parent_id is None
        else StorageObject.parent_id == parent_id
    )
    is_folder = StorageObject.file_id.is_(None)
    wanted = (
        select(StorageObject, StoredFile)
        .outerjoin(StoredFile, StoredFile.id == StorageObject.file_id)
        .where(StorageObject.bucket == bucket_name, same)
        .order_by(is_folder.desc(), StorageObject.name)
    )
    return [_listed(found, file) for found, file in session.execute(wanted)]


def _listed(item: StorageObject, file: StoredFile | None) -> ListedObject:
    return ListedObject(
        id=item.id,
        bucket=item.bucket,
        parent_id=item.parent_id,
        name=item.name,
        is_folder=file is None,
        content_type=None if file is None else file.content_type,
        size=None if file is None else file.size,
        metadata=item.details,
        uploaded_by=item.uploaded_by,
        created_at=item.created_at,
    )


def find(session: Session, bucket_name: str, object_id: UUID) -> StorageObject | None:
    """Return an object of a bucket."""
    wanted = select(StorageObject).where(
        StorageObject.id == object_id, StorageObject.bucket == bucket_name
    )
    return session.execute(wanted).scalar_one_or_none()


def taken(session: Session, bucket_name: str, parent_id: UUID | None, name: str) -> UUID | None:
    """Return the object that has a name in a folder."""
    wanted = select(StorageObject.id).where(
        StorageObject.bucket == bucket_name,
        StorageObject.parent_id.is_not_distinct_from(parent_id),
        StorageObject.name == name,
    )
    return session.execute(wanted).scalar_one_or_none()


def add(session: Session, item: StorageObject) -> None:
    """Store an object."""
    session.add(item)
    session.flush()  # a clash with its neighbours shows here


def ancestors(session: Session, object_id: UUID) -> list[StorageObject]:
    """Return an object and what it lies in, the root first."""
    climb = (
        select(StorageObject.id, StorageObject.parent_id, literal(0).label("up"))
        .where(StorageObject.id == object_id)
        .cte(recursive=True)
    )
    parent = aliased(StorageObject)
    climb = climb.union_all(
        select(parent.id, parent.parent_id, climb.c.up + 1).join(
            climb, parent.id == climb.c.parent_id
        )
    )
    wanted = (
        select(StorageObject)
        .join(climb, StorageObject.id == climb.c.id)
        .order_by(climb.c.up.desc())
    )
    return list(session.execute(wanted).scalars())


def remove(session: Session, object_id: UUID) -> None:
    """Delete an object with everything in it, and their files."""
    down = select(StorageObject.id).where(StorageObject.id == object_id).cte(recursive=True)
    child = aliased(StorageObject)
    down = down.union_all(select(child.id).join(down, child.parent_id == down.c.id))
    inside = select(StorageObject.file_id).where(
        StorageObject.id.in_(select(down.c.id)), StorageObject.file_id.is_not(None)
    )
    session.execute(delete(StoredFile).where(StoredFile.id.in_(inside)))
    session.execute(delete(StorageObject).where(StorageObject.id == object_id))
