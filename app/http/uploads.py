"""Uploaded files, read as they come.

Clients send the file part without a file name. Werkzeug's form parser takes such a part for a
text field, decodes it and ruins its bytes, so the multipart body is read here, event by event.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.core.errors import Invalid, TooLarge

CHUNK_BYTES: Final = 256 * 1024
IN_MEMORY_BYTES: Final = 1024 * 1024
MAX_PARTS: Final = 100
MAX_FIELD_BYTES: Final = 4096
NO_FILE: Final = "no file in request"


@dataclass(slots=True)
class Upload:
    """The first file of a multipart body.

    Attributes:
        name: as its sender calls it.
        stream: a temporary file, rewound.
        fields: short text parts by their names, also those that came after the file.
    """

    stream: IO[bytes]
    name: str = ""
    content_type: str = "application/octet-stream"
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


@contextmanager
def first_file(request: Request, *, max_bytes: int) -> Iterator[Upload]:
    """Yield the first part of a multipart body that has a file name.

    Raises:
        Invalid: not multipart, malformed, or no such part.
        TooLarge: the body is over the limit.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spool:
        upload = Upload(spool)
        if not _read_first_file(request, upload, max_bytes):
            raise Invalid(NO_FILE)
        upload.size = spool.tell()
        spool.seek(0)
        yield upload


def _read_first_file(request: Request, upload: Upload, max_bytes: int) -> bool:
    found = False
    part: Event | None = None
    for event in _events(request, NO_FILE, max_bytes):
        if isinstance(event, File):
            part = None if found else event
            if not found:
                upload.name = event.filename
                upload.content_type = event.headers.get("Content-Type", upload.content_type)
            found = True
        elif isinstance(event, Field):
            part = event
        elif isinstance(event, Data) and isinstance(part, File):
            upload.stream.write(event.data)
        elif isinstance(event, Data) and isinstance(part, Field):
            _append(upload.fields, part.name, event.data)
    return found


def _append(fields: dict[str, str], name: str, data: bytes) -> None:
    text = fields.get(name, "") + data.decode("utf-8", "replace")
    fields[name] = text[:MAX_FIELD_BYTES]


@contextmanager
def raw_body(request: Request, *, max_bytes: int) -> Iterator[Upload]:
    """Yield a body as it is.

    Raises:
        TooLarge: it is over the limit.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spool:
        for chunk in _chunks(request, max_bytes):
            spool.write(chunk or b"")
        size = spool.tell()
        spool.seek(0)
        yield Upload(spool, size=size)


@contextmanager
def file_part(request: Request, name: str, *, max_bytes: int) -> Iterator[IO[bytes]]:
    """Yield the content of one part of a multipart body in a temporary file, rewound.

    File name and content type of the part do not matter; other parts are read and dropped; of
    several parts with the name the first counts.

    Args:
        request: the request, its body not read yet.
        name: the part's field name.
        max_bytes: limit of the whole body.

    Raises:
        Invalid: not multipart, malformed, no such part, or an empty one.
        TooLarge: the body is over the limit.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spool:
        if not _copy_part(request, name, spool, max_bytes):
            raise Invalid(f"missing '{name}' field")
        if spool.tell() == 0:
            raise Invalid(f"empty {name}")
        spool.seek(0)
        yield spool


def _copy_part(request: Request, name: str, target: IO[bytes], max_bytes: int) -> bool:
    found = False
    wanted = False
    for event in _events(request, f"missing '{name}' field", max_bytes):
        if isinstance(event, Field | File):
            wanted = event.name == name and not found
            found = found or wanted
        elif isinstance(event, Data) and wanted:
            target.write(event.data)
    return found


def _events(request: Request, malformed: str, max_bytes: int) -> Iterator[Event]:
    """Yield the multipart events of a body."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise Invalid(malformed)
    decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), max_parts=MAX_PARTS)
    try:
        for chunk in _chunks(request, max_bytes):
            decoder.receive_data(chunk)
            event = decoder.next_event()
            while not isinstance(event, NeedData | Epilogue):
                yield event
                event = decoder.next_event()
    except (ValueError, RequestEntityTooLarge) as exc:
        # The decoder says "too large" of too many parts; the body's own limit is checked below.
        raise Invalid(malformed) from exc


def _chunks(request: Request, max_bytes: int) -> Iterator[bytes | None]:
    """Yield the body, then None for its end."""
    total = 0
    while True:
        try:
            chunk = request.stream.read(CHUNK_BYTES)
        except RequestEntityTooLarge as exc:
            raise TooLarge("request body too large") from exc
        if not chunk:
            yield None
            return
        total += len(chunk)
        if total > max_bytes:
            raise TooLarge("request body too large")
        yield chunk
