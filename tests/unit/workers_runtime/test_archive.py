"""What an archive may contain, and attacks on it (contract part 30, 2.1)."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from workers_runtime import archive
from workers_runtime.archive import (
    ArchiveError,
    clean_path,
    find_entry_point,
    inspect_archive,
    runtime_of,
    unpack_archive,
)


def member(name: str, data: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data if info.isreg() else b""


def pack(*members, tar_format=tarfile.PAX_FORMAT) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tar_format) as tar:
        for info, data in members:
            if not info.isreg():
                info.size = 0
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def both(data: io.BytesIO, target) -> str:
    """Return the error of both readers, which must agree, and that nothing got outside."""
    texts = []
    for read in (inspect_archive, lambda f: unpack_archive(f, target)):
        data.seek(0)
        with pytest.raises(ArchiveError) as caught:
            read(data)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert {p.name for p in target.parent.iterdir()} == {target.name}
    return texts[0]


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


UNSAFE = [
    "../x",
    "a/../../x",
    "a/..",
    "..",
    "/x",
    "//x",
    "C:/x",
    "c:x",
    "a\\b",
    "..\\x",
    "a\nb",
    "a\x7fb",
    "a/./b",
    "a//b",
    ".venv/x",
    ".venv",
    "./.venv/pyvenv.cfg",
    "x" * 256,
    "ä" * 128,
    "/".join(["d" * 200] * 6),
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names(name, target) -> None:
    assert both(pack(member(name)), target).startswith("unsafe archive entry: ")


def test_nul_in_a_name() -> None:
    with pytest.raises(ArchiveError):
        clean_path("a\0b")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_special_entries(kind, link, target) -> None:
    text = both(pack(member("evil", type=kind, linkname=link)), target)
    assert text == "unsafe archive entry: evil"


def test_symlink_cannot_redirect_a_later_file(target) -> None:
    evil = pack(member("d", type=tarfile.SYMTYPE, linkname="/etc"), member("d/x"))
    assert both(evil, target) == "unsafe archive entry: d"


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")]
)
def test_clashes(names, target) -> None:
    both_result = both(pack(*(member(n) for n in names)), target)
    assert both_result.startswith("unsafe archive entry: ")


def test_directory_over_a_file(target) -> None:
    assert both(pack(member("a"), member("a", type=tarfile.DIRTYPE)), target).startswith("unsafe")


def test_harmless_entries(target) -> None:
    data = pack(
        member(".", type=tarfile.DIRTYPE),
        member("./", type=tarfile.DIRTYPE),
        member("./worker.py", b"print()"),
        member("._worker.py", b"mac"),
        member("sub/", type=tarfile.DIRTYPE, mode=0o777),
        member("sub", type=tarfile.DIRTYPE),
        member("sub/tool", mode=0o4755, uid=0),
        member("l" * 200 + "/" + "ä" * 50 + ".txt"),
    )
    contents = unpack_archive(data, target)
    assert contents.entry_point == "worker.py"
    assert (target / "sub").stat().st_mode & 0o7777 == 0o755
    assert (target / "sub" / "tool").stat().st_mode & 0o7777 == 0o755
    assert (target / "worker.py").stat().st_mode & 0o7777 == 0o644
    data.seek(0)
    assert inspect_archive(data).files == contents.files


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_both_formats(tar_format, target) -> None:
    name = "/".join(["d" * 100] * 5)
    contents = unpack_archive(pack(member(name), tar_format=tar_format), target)
    assert list(contents.files) == [name]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        gzip.compress(b"not a tar" * 1000),
        gzip.compress(b""),
        pack(member("a", b"x" * 5000)).getvalue()[:-12],
        pack(member("a", bytes(5000))).getvalue()[:60],
        pack(member("a", b"x" * 5000)).getvalue()[:-8] + b"\0" * 8,
    ],
    ids=["empty", "text", "gzip of text", "gzip of nothing", "truncated", "short", "checksum"],
)
def test_damaged(data, target) -> None:
    with pytest.raises(ArchiveError, match=r"\Aextract archive: [a-z ]+\Z"):
        inspect_archive(io.BytesIO(data))


def test_too_many_entries(target, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    text = both(pack(*(member(f"f{n}") for n in range(6))), target)
    assert text == "archive too large: over 20000 entries"


def test_too_large_file(target, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100)
    assert both(pack(member("a", b"x" * 101)), target) == "archive too large: 'a' is over 100 MB"


def test_too_large_in_total(target, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 150)
    text = both(pack(member("a", b"x" * 100), member("b", b"x" * 100)), target)
    assert text == "archive too large: over 500 MB unpacked"


def test_bomb_stops_at_the_limit() -> None:
    """120 MB of zeros in 120 kB: refused by its header, before any of it is unpacked."""
    data = pack(member("zeros", bytes(120 * 1024 * 1024)))
    assert len(data.getvalue()) < 200_000
    with pytest.raises(ArchiveError, match="archive too large"):
        inspect_archive(data)


def test_bomb_behind_the_end_of_the_tar(monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1_000_000)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 10)
    plain = gzip.decompress(pack(member("a")).getvalue()) + bytes(40_000_000)
    with pytest.raises(ArchiveError, match="archive too large"):
        inspect_archive(io.BytesIO(gzip.compress(plain)))


def test_bomb_in_an_extended_header() -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 2_000_000}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    buffer.seek(0)
    with pytest.raises(ArchiveError, match="header is over 1 MB"):
        inspect_archive(buffer)


def test_sparse_file(target) -> None:
    header = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    data = io.BytesIO(gzip.compress(bytes(header) + bytes(10240)))
    with pytest.raises(ArchiveError):
        inspect_archive(data)


def test_kept_contents() -> None:
    data = pack(member("agent.json", b"{}"), member("big.json", b"x" * 2_000_000))
    assert inspect_archive(data, keep=lambda p: p.endswith(".json")).kept == {"agent.json": b"{}"}


def test_entry_points() -> None:
    order = [
        "worker.py",
        "main.py",
        "src/worker.py",
        "src/main.py",
        "index.ts",
        "index.js",
        "main.ts",
        "main.js",
        "src/index.ts",
        "src/index.js",
    ]
    while order:
        assert find_entry_point(dict.fromkeys(reversed(order), 1)) == order[0]
        order.pop(0)
    assert find_entry_point({"Worker.py": 1, "lib/worker.py": 1}) is None
    assert (runtime_of("src/main.py"), runtime_of("index.ts")) == ("python", "js")


def test_unreadable_name_is_shown_escaped() -> None:
    with pytest.raises(ArchiveError) as caught:
        clean_path("a\nb\udcff")
    assert str(caught.value) == "unsafe archive entry: a\\nb\\udcff"
