"""When parameters agree with a share's context."""

import pytest

from app.apps.shares import covers, is_token, same_json


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ([1, {"a": True}], [1, {"a": True}], True),
        ([1, {"a": True}], [1, {"a": 1}], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([], {}, False),
        ([1], [1, 2], False),
    ],
)
def test_equality_is_strict_about_types(one, other, same):
    assert same_json(one, other) is same
    assert same_json(other, one) is same


@pytest.mark.parametrize(
    ("context", "scope", "params", "covered"),
    [
        (None, [], None, True),
        ({"doc": 7}, ["doc"], {"doc": 7, "page": 2}, True),
        ({"doc": 7}, ["doc"], {"doc": "7"}, False),
        ({"doc": 7}, ["doc"], {}, False),
        ({"doc": None}, ["doc"], {}, False),
        ({}, ["doc"], {"doc": None}, False),
        ({"doc": 7}, ["doc", "lang"], {"doc": 7, "lang": "en"}, False),
        (None, ["doc"], {"doc": 7}, False),
        ({"doc": 7}, ["doc"], [7], False),
    ],
)
def test_every_key_of_the_scope_must_agree(context, scope, params, covered):
    assert covers(context, scope, params) is covered


def test_no_jwt_is_spelled_like_a_share_token():
    assert is_token("A" * 43)
    assert not is_token("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + "A" * 43)
    assert not is_token("A" * 42)
    assert not is_token("A" * 43 + "\n")
