"""What a deployment archive may contain, checked while it streams.

The API checks an upload with ``inspect_archive`` before it stores it, the runtime unpacks it with
``unpack_archive``; both go through the same rules. Nothing outside the target is ever written.

Source: contract part 30, 2, 2.1, 2.2.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

MAX_ENTRIES = 20_000
MAX_FILE_BYTES = 100 * 1024 * 1024
MAX_TOTAL_BYTES = 500 * 1024 * 1024
MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 255
MAX_KEPT_BYTES = 1024 * 1024
MAX_HEADER_BYTES = 1024 * 1024
CHUNK_BYTES = 1 << 18
HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

PYTHON_ENTRY_POINTS = ("worker.py", "main.py", "src/worker.py", "src/main.py")
JS_ENTRY_POINTS = (
    "index.ts",
    "index.js",
    "main.ts",
    "main.js",
    "src/index.ts",
    "src/index.js",
)
ENTRY_POINTS = PYTHON_ENTRY_POINTS + JS_ENTRY_POINTS

NO_ENTRY_POINT = "no entry point: expected worker.py, main.py, … or index.ts, index.js, …"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:")


class ArchiveError(Exception):
    """An archive breaks a rule; the text is the contract's."""


@dataclass(slots=True)
class ArchiveContents:
    """What an archive holds.

    Attributes:
        files: size in bytes by path, in archive order.
        kept: content of the small files that ``keep`` asked for.
        total_bytes: unpacked size.
    """

    files: dict[str, int] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    total_bytes: int = 0

    @property
    def entry_point(self) -> str | None:
        """Path of the entry point, or None."""
        return find_entry_point(self.files)


def find_entry_point(files: dict[str, int]) -> str | None:
    """Return the first name of the entry point list that is a regular file."""
    return next((name for name in ENTRY_POINTS if name in files), None)


def runtime_of(entry_point: str) -> str:
    """Return ``python`` or ``js`` for an entry point."""
    return "python" if entry_point.endswith(".py") else "js"


def inspect_archive(
    archive: BinaryIO, *, keep: Callable[[str], bool] = lambda _path: False
) -> ArchiveContents:
    """Check a whole archive without writing anything.

    Args:
        archive: gzip-compressed tar, read from its current position.
        keep: says of a path whether its content is wanted (files up to 1 MiB).

    Raises:
        ArchiveError: with the contract's text.
    """
    contents = ArchiveContents()
    for entry in _entries(archive, contents):
        if entry.source is None:
            continue
        wanted = entry.size <= MAX_KEPT_BYTES and keep(entry.path)
        parts = [chunk for chunk in entry.chunks(contents) if wanted]
        if wanted:
            contents.kept[entry.path] = b"".join(parts)
    return contents


def unpack_archive(archive: BinaryIO, target: Path) -> ArchiveContents:
    """Unpack an archive into an empty folder, checking each entry before it is written.

    Directories get mode 0755, files 0644 or 0755; owner, times and setuid bits are dropped.

    Raises:
        ArchiveError: with the contract's text; what was written before stays.
    """
    contents = ArchiveContents()
    for entry in _entries(archive, contents):
        path = target / entry.path
        if entry.source is None:
            _make_folder(path)
            continue
        _make_folder(path.parent)
        with path.open("xb") as out:
            for chunk in entry.chunks(contents):
                out.write(chunk)
        path.chmod(0o755 if entry.executable else 0o644)
    return contents


def _make_folder(path: Path) -> None:
    """Make a folder and its missing parents with mode 0755 whatever the umask."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One accepted entry; ``source`` is None for a directory."""

    path: str
    size: int
    executable: bool
    source: IO[bytes] | None

    def chunks(self, contents: ArchiveContents) -> Iterator[bytes]:
        """Yield the content, counting it against the limits."""
        assert self.source is not None  # noqa: S101  # callers test it
        size = 0
        while chunk := _read(self.source):
            size += len(chunk)
            contents.total_bytes += len(chunk)
            if size > MAX_FILE_BYTES:
                raise ArchiveError(f"archive too large: '{self.path}' is over 100 MB")
            if contents.total_bytes > MAX_TOTAL_BYTES:
                raise ArchiveError("archive too large: over 500 MB unpacked")
            yield chunk
        contents.files[self.path] = size


class _BoundedStream:
    """Unpacked tar stream that stops a decompression bomb hidden in headers or padding."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._read = 0
        # Headers, padding and extended headers add at most this to the content.
        self._limit = MAX_TOTAL_BYTES + MAX_ENTRIES * 4096 + 10 * 1024 * 1024

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(min(size, CHUNK_BYTES) if size >= 0 else CHUNK_BYTES)
        self._read += len(chunk)
        if self._read > self._limit:
            raise ArchiveError("archive too large: over 500 MB unpacked")
        return chunk


def _entries(archive: BinaryIO, contents: ArchiveContents) -> Iterator[_Entry]:
    names = _Names()
    with _translated(), gzip.GzipFile(fileobj=archive, mode="rb") as plain:
        stream = _BoundedStream(plain)  # type: ignore[arg-type]  # GzipFile reads as IO[bytes]
        # tarfile's stream mode wants `read` only.
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:  # type: ignore[call-overload]
            for count, member in enumerate(tar):
                if count >= MAX_ENTRIES:
                    raise ArchiveError("archive too large: over 20000 entries")
                entry = _accept(tar, member, names)
                if entry is not None:
                    yield entry
        # The checksum is only verified at the very end of the gzip stream.
        while stream.read(CHUNK_BYTES):
            pass


class _Member(tarfile.TarInfo):
    """A member whose extended headers are small; tarfile reads those whole into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in HEADER_TYPES and self.size > MAX_HEADER_BYTES:
            raise ArchiveError("archive too large: an entry header is over 1 MB")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]


def _read(source: IO[bytes]) -> bytes:
    with _translated():
        return source.read(CHUNK_BYTES)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what tarfile, gzip and zlib raise into the contract's text."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as exc:
        raise ArchiveError(f"extract archive: {_detail(exc)}") from None


def _detail(exc: Exception) -> str:
    text = str(exc)
    if isinstance(exc, gzip.BadGzipFile):
        return "bad checksum" if "check" in text.lower() else "not a gzip archive"
    if isinstance(exc, EOFError):
        return "truncated archive"
    if isinstance(exc, tarfile.ReadError):
        return "truncated archive" if "unexpected end" in text else "not a tar archive"
    return "damaged archive"


def _accept(tar: tarfile.TarFile, member: tarfile.TarInfo, names: _Names) -> _Entry | None:
    """Check one member; None = nothing to write."""
    path = clean_path(member.name)
    if path is None:
        if member.isdir():
            return None
        raise _unsafe(member.name)
    if member.isdir():
        names.add_directory(path, member.name)
        return _Entry(path, 0, executable=False, source=None)
    if not member.isreg() or member.issparse():
        raise _unsafe(member.name)
    names.add_file(path, member.name)
    if member.size > MAX_FILE_BYTES:
        raise ArchiveError(f"archive too large: '{path}' is over 100 MB")
    source = tar.extractfile(member)
    if source is None:
        raise _unsafe(member.name)
    return _Entry(path, member.size, executable=bool(member.mode & 0o100), source=source)


def clean_path(name: str) -> str | None:
    """Return the path an entry name stands for, or None for the archive's root itself.

    Raises:
        ArchiveError: the name is not allowed (contract part 30, 2.1).
    """
    if name in {".", "./"}:
        return None
    path = name
    while path.startswith("./"):
        path = path[2:]
    path = path.rstrip("/")
    if not path or path.startswith("/") or "\\" in path:
        raise _unsafe(name)
    if _CONTROL.search(path) or _DRIVE.match(path):
        raise _unsafe(name)
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or parts[0] == ".venv":
        raise _unsafe(name)
    try:
        encoded = [part.encode() for part in parts]
    except UnicodeEncodeError:
        raise _unsafe(name) from None
    if max(map(len, encoded)) > MAX_COMPONENT_BYTES:
        raise _unsafe(name)
    if sum(map(len, encoded)) + len(parts) - 1 > MAX_PATH_BYTES:
        raise _unsafe(name)
    return path


class _Names:
    """Paths seen so far: no file twice, no name both as file and as directory."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def add_file(self, path: str, name: str) -> None:
        if path in self._files or path in self._directories:
            raise _unsafe(name)
        self._add_parents(path, name)
        self._files.add(path)

    def add_directory(self, path: str, name: str) -> None:
        if path in self._files:
            raise _unsafe(name)
        self._add_parents(path, name)
        self._directories.add(path)

    def _add_parents(self, path: str, name: str) -> None:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in self._directories:
                return
            if path in self._files:
                raise _unsafe(name)
            self._directories.add(path)


def _unsafe(name: str) -> ArchiveError:
    shown = name[:200].encode("unicode_escape").decode("ascii") if _odd(name) else name[:200]
    return ArchiveError(f"unsafe archive entry: {shown}")


def _odd(name: str) -> bool:
    return bool(_CONTROL.search(name)) or any("\ud800" <= char <= "\udfff" for char in name)
