"""The platform's own storage: buckets with folders and files.

Source: REST contract part 20, section 11.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.errors import Conflict, Invalid, NotFound, missing_permission
from app.core.ids import parse_uuid
from app.core.uow import UnitOfWork
from app.files import names, service
from app.files import storage_rows as rows
from app.files.models import Bucket, StorageObject
from app.files.service import Content, FileInfo

DEFAULT: Final = "default"
BUCKET_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
NOT_TYPES: Final = "'allowed_types' must be an array of content types"


def require_right(actor: Actor, action: str, bucket: str | None = None) -> None:
    """Raise ``Forbidden`` unless the actor may do this in a bucket.

    Args:
        actor: who asks.
        action: read, write, delete or admin.
        bucket: which one; None = all of them.
    """
    key = f"storage:{action}"
    if actor.can(key) or (bucket is not None and actor.can(f"storage:{bucket}:{action}")):
        return
    raise missing_permission(key if bucket is None else f"storage:{bucket}:{action}")


# --- buckets ---------------------------------------------------------------------------------


def list_buckets(session: Session, actor: Actor) -> list[Bucket]:
    """Return the buckets the actor may read, by name.

    Raises:
        Forbidden: none.
    """
    found = rows.buckets(session)
    readable = [
        bucket
        for bucket in found
        if actor.can("storage:read") or actor.can(f"storage:{bucket.name}:read")
    ]
    if not readable:
        require_right(actor, "read")
    return readable


def create_bucket(uow: UnitOfWork, actor: Actor, body: Mapping[str, Any]) -> str:
    """Create a bucket; return its name.

    Raises:
        Forbidden: the actor lacks ``storage:admin``.
        Invalid: a field is wrong, or the name is taken.
    """
    name = body.get("name")
    require_right(actor, "admin", name if isinstance(name, str) else None)
    if not isinstance(name, str) or BUCKET_NAME.fullmatch(name) is None:
        raise Invalid("field 'name' must be 1-63 letters, digits, '-' or '_'")
    public = body.get("public")
    if public is not None and not isinstance(public, bool):
        raise Invalid("field 'public' must be a boolean")
    if rows.bucket(uow.session, name) is not None:
        raise Invalid(f"bucket '{name}' exists")
    uow.session.add(
        Bucket(
            name=name,
            public=bool(public),
            max_file_size=_size(body.get("max_file_size")),
            allowed_types=_types(body.get("allowed_types")),
        )
    )
    uow.session.flush()  # two at once: the second one fails here
    return name


def _size(value: Any) -> int | None:  # Any: a JSON value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise Invalid("field 'max_file_size' must be a number of bytes")
    return value


def _types(value: Any) -> list[str] | None:  # Any: a JSON value
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"field {NOT_TYPES}")
    return [item.lower() for item in value]


def delete_bucket(uow: UnitOfWork, actor: Actor, name: str) -> None:
    """Delete an empty bucket.

    Raises:
        Forbidden: the actor may not.
        NotFound: there is none.
        Invalid: it is the default one.
        Conflict: something is in it.
    """
    require_right(actor, "admin", name)
    if name == DEFAULT:
        raise Invalid("bucket 'default' cannot be deleted")
    require_bucket(uow.session, name, lock=True)
    if not rows.is_empty(uow.session, name):
        raise Conflict(f"bucket '{name}' is not empty")
    rows.remove_bucket(uow.session, name)


def find_bucket(session: Session, name: str) -> Bucket | None:
    """Return a bucket, if there is one."""
    return rows.bucket(session, name)


def require_bucket(session: Session, name: str, *, lock: bool = False) -> Bucket:
    """Return a bucket.

    Raises:
        NotFound: there is none.
    """
    found = rows.bucket(session, name, lock=lock)
    if found is None:
        raise NotFound(f"no bucket '{name}'")
    return found


# --- objects ---------------------------------------------------------------------------------


def list_objects(
    session: Session, actor: Actor, bucket: str, parent: str | None
) -> list[rows.ListedObject]:
    """Return what is in a folder: folders first, then by name.

    Raises:
        NotFound: no such bucket or folder.
    """
    require_right(actor, "read", bucket)
    require_bucket(session, bucket)
    return rows.listed(session, bucket, _parent(session, bucket, parent))


def create_folder(
    uow: UnitOfWork, actor: Actor, bucket: str, body: Mapping[str, Any]
) -> StorageObject:
    """Create a folder.

    Raises:
        Invalid: the name is wrong or taken.
        NotFound: no such bucket or parent.
    """
    require_right(actor, "write", bucket)
    require_bucket(uow.session, bucket, lock=True)
    item = StorageObject(
        id=uuid4(),
        bucket=bucket,
        parent_id=_parent(uow.session, bucket, _text(body, "parent_id")),
        name=_name(_text(body, "name")),
        uploaded_by=actor.user_id,
    )
    _place(uow.session, item)
    return item


def check_upload(session: Session, actor: Actor, bucket: str) -> None:
    """Check before a body is read what can be checked.

    Raises:
        Forbidden: the actor may not write.
        NotFound: no such bucket.
    """
    require_right(actor, "write", bucket)
    require_bucket(session, bucket)


def upload(
    uow: UnitOfWork, actor: Actor, bucket: str, content: Content, parent: str | None
) -> tuple[UUID, FileInfo]:
    """Store a file in a folder; return the object's id and the file.

    Raises:
        Invalid: empty, of a type or size the bucket does not take, or its name is taken.
        NotFound: no such bucket or parent.
    """
    found = require_bucket(uow.session, bucket, lock=True)
    _check_taken_in(found, content)
    parent_id = _parent(uow.session, bucket, parent)
    file = service.store(uow, actor.user_id, app_id=None, content=content)
    item = StorageObject(
        id=uuid4(),
        bucket=bucket,
        parent_id=parent_id,
        name=file.name,
        file_id=file.id,
        uploaded_by=actor.user_id,
    )
    _place(uow.session, item)
    return item.id, file


def _check_taken_in(bucket: Bucket, content: Content) -> None:
    kind = names.content_type(content.content_type).partition(";")[0].lower()
    allowed = bucket.allowed_types
    if allowed is not None and not any(fnmatchcase(kind, pattern) for pattern in allowed):
        raise Invalid(f"content type '{kind}' is not allowed in bucket '{bucket.name}'")
    if bucket.max_file_size is not None and content.size > bucket.max_file_size:
        raise Invalid(f"files in bucket '{bucket.name}' may have {bucket.max_file_size} bytes")


def open_object(session: Session, actor: Actor | None, bucket: str, object_id: str) -> FileInfo:
    """Return the file of an object under the object's name.

    Args:
        session: the session.
        actor: None = the bucket is public.
        bucket: the bucket.
        object_id: the object.

    Raises:
        Invalid: it is a folder.
        NotFound: no such bucket or object.
    """
    if actor is not None:
        require_right(actor, "read", bucket)
    item = require_object(session, bucket, object_id)
    if item.file_id is None:
        raise Invalid("a folder has no content")
    found = service.describe(session, None, item.file_id)
    if found is None:
        raise NotFound(f"no object '{object_id}'")
    return FileInfo(found.id, item.name, found.content_type, found.size)


def change(
    uow: UnitOfWork, actor: Actor, bucket: str, object_id: str, body: Mapping[str, Any]
) -> None:
    """Rename or move an object.

    Raises:
        Invalid: into itself or what is in it, or the name is wrong or taken.
        NotFound: no such bucket, object or parent.
    """
    require_right(actor, "write", bucket)
    require_bucket(uow.session, bucket, lock=True)
    item = require_object(uow.session, bucket, object_id)
    if body.get("name") is not None:
        item.name = _name(_text(body, "name"))
    if "parent_id" in body:
        parent_id = _parent(uow.session, bucket, _text(body, "parent_id"))
        above = [] if parent_id is None else rows.ancestors(uow.session, parent_id)
        if item.id in {found.id for found in above}:
            raise Invalid("an object cannot be moved into itself")
        item.parent_id = parent_id
    _place(uow.session, item)


def delete(uow: UnitOfWork, actor: Actor, bucket: str, object_id: str) -> None:
    """Delete an object; a folder takes its content along.

    Raises:
        NotFound: no such bucket or object.
    """
    require_right(actor, "delete", bucket)
    require_bucket(uow.session, bucket, lock=True)
    rows.remove(uow.session, require_object(uow.session, bucket, object_id).id)


def path_of(session: Session, actor: Actor, bucket: str, object_id: str) -> list[StorageObject]:
    """Return what an object lies in, from the root to itself."""
    require_right(actor, "read", bucket)
    return rows.ancestors(session, require_object(session, bucket, object_id).id)


def require_object(session: Session, bucket: str, object_id: str) -> StorageObject:
    """Return an object of a bucket.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: there is none.
    """
    require_bucket(session, bucket)
    found = rows.find(session, bucket, parse_uuid(object_id))
    if found is None:
        raise NotFound(f"no object '{object_id}'")
    return found


def _parent(session: Session, bucket: str, given: str | None) -> UUID | None:
    if given in {None, "", "null"}:
        return None
    found = require_object(session, bucket, str(given))
    if found.file_id is not None:
        raise Invalid("'parent_id' must name a folder")
    return found.id


def _place(session: Session, item: StorageObject) -> None:
    """Put an object where it says; the bucket is locked, so nobody takes the name meanwhile."""
    with session.no_autoflush:
        other = rows.taken(session, item.bucket, item.parent_id, item.name)
    if other not in {None, item.id}:
        raise Invalid(f"'{item.name}' exists in this folder")
    rows.add(session, item)


def _text(body: Mapping[str, Any], key: str) -> str | None:  # Any: JSON values
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"field '{key}' must be a string")
    return value


def _name(given: str | None) -> str:
    if given is None:
        raise Invalid("field 'name' is required")
    if given != names.file_name(given):
        raise Invalid("field 'name' must be 1-255 characters without '/' and '\\'")
    return given
