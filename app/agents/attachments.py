"""Files of a message, as a model gets them.

Source: REST contract part 40, sections 1.5 and 1.8.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.agents import transcript
from app.agents.active import ActiveRun
from app.agents.providers.base import ModelConfig
from app.core.errors import Invalid, NotFound
from app.core.uow import UnitOfWork
from app.files import service as files_service

JSONObject = dict[str, Any]  # Any: JSON values

MAX_FILES = 10
MAX_BYTES = 20 * 1024 * 1024
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
TEXTS = frozenset({"application/json", "application/xml", "text/csv"})


@dataclass(frozen=True, slots=True)
class Attached:
    """A file of a message with its content."""

    name: str
    data: bytes


def check(session: Session, app_id: str, file_ids: Sequence[UUID]) -> list[JSONObject]:
    """Return the blocks that stand for files in a transcript.

    Raises:
        NotFound: a file is not in the app's storage.
        Invalid: together they are too large.
    """
    blocks, size = [], 0
    for file_id in file_ids:
        found = files_service.describe(session, app_id, file_id)
        if found is None:
            raise NotFound(f"file {file_id} not found in app '{app_id}'")
        size += found.size
        blocks.append(
            {
                "type": "file",
                "file_id": str(file_id),
                "name": found.name,
                "content_type": found.content_type,
            }
        )
    if size > MAX_BYTES:
        raise Invalid("attachments exceed 20 MiB")
    return blocks


def find(session: Session, app_id: str, file_id: UUID) -> Attached | None:
    """Return a file of an app's storage, unless it is gone."""
    found = files_service.describe(session, app_id, file_id)
    return None if found is None else Attached(found.name, files_service.read(session, file_id))


def addresses(
    uow: UnitOfWork, public_url: str, app_id: str, blocks: Sequence[JSONObject]
) -> list[JSONObject]:
    """Return the files among blocks of a message as an app's own agent gets them.

    Each can be fetched once, within 300 s; files that are gone are left out.

    Source: REST contract part 30, section 4.2.
    """
    return [
        {
            "name": block["name"],
            "content_type": block["content_type"],
            "url": public_url.rstrip("/")
            + files_service.download_path(uow, app_id=app_id, file_id=UUID(block["file_id"])),
        }
        for block in blocks
        if block["type"] == "file"
        and files_service.describe(uow.session, app_id, UUID(block["file_id"])) is not None
    ]


class Loader:
    """Replaces the files in a transcript by what the model can take."""

    def __init__(self, active: ActiveRun, config: ModelConfig) -> None:
        self._active = active
        self._config = config
        self._loaded: dict[str, JSONObject] = {}

    def expand(self, messages: Sequence[JSONObject]) -> list[JSONObject]:
        """Return the messages with the content of their files."""
        return [
            {**message, "content": [self._block(block) for block in message["content"]]}
            for message in messages
        ]

    def _block(self, block: JSONObject) -> JSONObject:
        if block["type"] != "file":
            return block
        file_id = block["file_id"]
        if file_id not in self._loaded:
            with self._active.platform.uow() as uow:
                found = find(uow.session, self._active.run.app_id, UUID(file_id))
            self._loaded[file_id] = as_block(found, block, self._config)
        return self._loaded[file_id]


def as_block(found: Attached | None, block: JSONObject, config: ModelConfig) -> JSONObject:
    """Return the block of a file: picture, document, its text, or a line that names it."""
    kind = block["content_type"].split(";")[0].strip().lower()
    named = transcript.text(f"[attached file {block['name']}, type {kind}]")
    if found is None:
        return transcript.text(f"[attached file {block['name']} is gone]")
    if kind in IMAGES:
        return _binary("image", found, kind) if config.supports_images else named
    if kind == "application/pdf":
        return _binary("document", found, kind) if config.supports_documents else named
    if kind in TEXTS or kind.startswith("text/"):
        text = found.data.decode("utf-8", errors="replace")
        return transcript.text(f"[file {block['name']}]\n{text}")
    return named


def _binary(block_type: str, found: Attached, kind: str) -> JSONObject:
    data = base64.b64encode(found.data).decode("ascii")
    return {"type": block_type, "media_type": kind, "data": data, "name": found.name}
