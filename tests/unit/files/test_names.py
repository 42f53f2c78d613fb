"""Names that clients give to files."""

import pytest

from app.files import names


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Temp\\a b.pdf", "a b.pdf"),
        ("a\r\nX: y", "aX: y"),
        ("", "file"),
        ("..", "file"),
        ("x/", "file"),
        ("\ud800", "file"),
        ("ü" * 300, "ü" * 255),
    ],
)
def test_a_name_is_the_last_part_of_a_path(given, kept):
    assert names.file_name(given) == kept


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ('a"b\\c\n.txt', 'attachment; filename="abc.txt"'),
        ("é.txt", 'attachment; filename="é.txt"'),
        ("日.txt", "attachment; filename=\"?.txt\"; filename*=UTF-8''%E6%97%A5.txt"),
    ],
)
def test_a_download_is_saved_under_its_name(name, header):
    assert names.attachment(name) == header


def test_content_types():
    for good in ("text/plain", "image/svg+xml", "text/plain; charset=utf-8"):
        assert names.content_type(good) == good
    for bad in ("", "text", "text/html\r\nX: y", "text/plain;", "a/b; c=<d>", "ä/b"):
        assert names.content_type(bad) == names.UNKNOWN_TYPE
