import json

import pytest

from app.core.errors import Invalid
from app.http.parsing import parse_json, parse_object


def test_an_object_is_returned():
    assert parse_object(b'{"a": [1, null, "\\u00e9"]}') == {"a": [1, None, "é"]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff",
        b'{"a": NaN}',
        b"[Infinity]",
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b"1" * 5000,
    ],
)
def test_what_is_not_json_is_refused(raw):
    with pytest.raises(Invalid, match="^request body is not valid JSON$"):
        parse_json(raw)


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_has_a_limit(opened, closed):
    deepest = opened * 200 + b"1" + closed * 200
    assert parse_json(deepest) == json.loads(deepest)
    with pytest.raises(Invalid, match="^request body is nested too deeply$"):
        parse_json(opened + deepest + closed)


def test_width_has_none():
    wide = [[], {}] * 1000
    assert parse_json(json.dumps(wide).encode()) == wide


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_json_of_another_type_is_refused(raw):
    with pytest.raises(Invalid, match="^request body must be a JSON object$"):
        parse_object(raw)
