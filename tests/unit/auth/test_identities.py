"""Addresses, passwords and redirects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth import identities
from app.auth.oidc import rules
from app.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (" Nora@Acme.TEST\n", "nora@acme.test"),
        ("a@b", "a@b"),
        ("ÄÖ@x.test", "äö@x.test"),
        ("x+tag@y.test", "x+tag@y.test"),
    ],
)
def test_addresses_are_stored_lower_case_without_outer_blanks(text, stored):
    assert identities.normalize_email(text) == stored


@given(st.text())
def test_what_is_accepted_is_stable_and_clean(text):
    try:
        email = identities.normalize_email(text)
    except Invalid:
        return
    assert identities.normalize_email(email) == email
    assert len(email) <= 254
    assert email.count("@") == 1
    assert not any(char.isspace() or char < " " for char in email)


PUBLIC = "https://trellis.acme.test"


@pytest.mark.parametrize(
    "url", [PUBLIC, f"{PUBLIC}:443/x", "HTTPS://TRELLIS.acme.test/x?y#z", "http://localhost:1/"]
)
def test_redirects_to_ourselves(url):
    rules.check_redirect(url, PUBLIC)


@pytest.mark.parametrize(
    "url",
    [
        "http://trellis.acme.test/",
        "https://trellis.acme.test:444/",
        "https://trellis.acme.test.evil.test/",
        "https://trellis.acme.test@evil.test/",
        "https://trellis.acme.test\\@evil.test/",
        "//evil.test/",
        "https:evil.test",
        "https:///evil.test",
        "http://2130706433/",
        "http://127.1/",
        "http://[::ffff:10.0.0.1]/",
        "data:text/html,x",
    ],
)
def test_redirects_elsewhere(url):
    with pytest.raises(Invalid):
        rules.check_redirect(url, PUBLIC)


def test_parameters_are_added_to_those_there_are():
    assert rules.with_query("http://h/p?a=1#f", {"b": "x&y"}) == "http://h/p?a=1&b=x%26y#f"
    assert rules.with_query("http://h", {"b": "1"}, fragment="g") == "http://h?b=1#g"
