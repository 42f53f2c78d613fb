"""Matching and intersection of permission keys (contract part 10, sections 7.2 and 7.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.permissions import Permissions, is_key


@pytest.mark.parametrize(
    ("grant", "covered", "not_covered"),
    [
        ("*", ["app:crm:deals.read", "tool:x", "*", "admin:audit.read"], []),
        (
            "app:crm:*",
            ["app:crm:deals.read", "app:crm:action:score", "app:crm:invoke", "app:crm:*"],
            ["app:crm_old:x.read", "app:erp:x.read", "admin:audit.read", "app:crm", "app:*"],
        ),
        ("app:*", ["app:crm:deals.read", "app:erp:invoke"], ["tool:query_data", "*"]),
        ("tool:*", ["tool:query_data"], ["app:crm:deals.read", "tools:x"]),
        ("app:crm:deals.*", ["app:crm:deals.*"], ["app:crm:deals.read"]),
        ("app:*:deals.read", ["app:*:deals.read"], ["app:crm:deals.read"]),
        ("app:crm:deals.read", ["app:crm:deals.read"], ["app:crm:deals.reader", "app:crm:*"]),
        (":*", [":x"], ["x:y"]),
    ],
)
def test_a_grant_covers_what_the_table_says(grant, covered, not_covered):
    permissions = Permissions.of({grant})
    assert [key for key in covered if not permissions.match(key)] == []
    assert [key for key in not_covered if permissions.match(key)] == []


def test_nothing_is_granted_by_default():
    assert not Permissions().match("app:crm:deals.read")
    assert not Permissions().match("")


def test_only_the_star_itself_is_everything():
    assert Permissions.of({"*"}).everything
    assert not Permissions.of({"app:*", "tool:*"}).everything


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({"*"}, {"app:a:x"}, {"app:a:x"}),
        ({"app:a:x"}, {"*"}, {"app:a:x"}),
        ({"*"}, {"*"}, {"*"}),
        ({"app:a:*"}, {"app:a:x", "app:b:x"}, {"app:a:x"}),
        ({"app:*"}, {"app:a:*"}, {"app:a:*"}),
        ({"app:a:x"}, {"app:b:x"}, set()),
        (set(), {"*"}, set()),
        ({"app:a:*", "app:a:x"}, {"app:a:x"}, {"app:a:x"}),
    ],
)
def test_intersection(one, other, both):
    assert Permissions.of(one).intersect(Permissions.of(other)) == Permissions.of(both)


KEYS = st.sampled_from(
    ["*", "app:*", "app:a:*", "app:a_b:*", "app:a:x", "app:a:x.read", "app:b:x", "tool:*", "tool:q"]
)
SETS = st.frozensets(KEYS, max_size=5).map(Permissions)


@given(SETS, SETS, KEYS)
def test_an_intersection_grants_exactly_what_both_grant(one, other, key):
    assert one.intersect(other).match(key) == (one.match(key) and other.match(key))


@pytest.mark.parametrize("text", ["app:a:x.read", "*", "a", "_", "app:*", ":", "."])
def test_keys(text):
    assert is_key(text)


@pytest.mark.parametrize("text", ["", "APP:x", "app:a,b:c", "app a", "app:a-b", "app:ä", "app:a\n"])
def test_not_keys(text):
    assert not is_key(text)
