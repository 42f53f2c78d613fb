"""From JSON to the value of a field (contract part 20, 3.4), and defaults as Postgres reads them."""

import pytest

from app.data.values import Kind, WrongValue, convert, input_text, kind_of

GOOD = [
    ("text", "x", "x"),
    ("text", 12.5, "12.5"),
    ("text", True, "true"),
    ("text", {"a": [1, None]}, '{"a":[1,null]}'),
    ("text", "2026-01-01", "2026-01-01"),
    ("odd", [1], "[1]"),
    ("number", 1, 1.0),
    ("number", "42.5", 42.5),
    ("number", ".5e1", 5.0),
    ("number", True, 1.0),
    ("boolean", 0, False),
    ("boolean", "1", True),
    ("date", "2024-02-29", "2024-02-29"),
    ("timestamp", "2026-02-03", "2026-02-03T00:00:00+00:00"),
    ("timestamp", "2026-02-03t08:15:00z", "2026-02-03T08:15:00+00:00"),
    ("timestamp", "2026-02-03 09:15:00.1+01:00", "2026-02-03T08:15:00.100000+00:00"),
    ("json", [None], "[null]"),
    ("json", "x", '"x"'),
    ("json", "\\u0000", '"\\\\u0000"'),
    ("uuid", "5B2C6C1E-0B5A-4A53-9A0E-6A2F5A1F7C11", "5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11"),
    ("file", "id", "id"),
    ("[text]", ["a", ""], ["a", ""]),
    ("[number]", [1, 2.5], [1.0, 2.5]),
]
BAD = {
    "text": ["\0", {"a": "\0"}],
    "number": ["", "x", " 1", "1e999", "1_0", "NaN", [1], float("inf"), float("nan"), 10**400],
    "boolean": ["yes", 2, [], 1.0, "TRUE"],
    "date": ["2026-02-30", "2026-2-3", 20260203, "2026-02-03T00:00:00", "0000-01-01"],
    "timestamp": ["2026-02-03T25:00:00", "now", 1, "2026-02-03T08:15", "9999-12-31T23:00:00-23:00"],
    "json": ["\0", {"\0": 1}, float("nan")],
    "uuid": ["x", 5, "5b2c6c1e0b5a4a539a0e6a2f5a1f7c11"],
    "entity_link": [5, True, "x"],
    "file": [5, ["x"]],
    "[text]": ["x", [1], [None], ["\0"], {}],
    "[number]": ["x", ["1"], [None], [True], [float("inf")]],
}


@pytest.mark.parametrize(("type_name", "given", "bound"), GOOD)
def test_what_fits_is_brought_to_the_type(type_name, given, bound):
    found = convert(type_name, kind_of(type_name), given)
    assert found == bound
    assert type(found) is type(bound)


@pytest.mark.parametrize("type_name", BAD)
def test_anything_else_is_refused(type_name):
    for given in BAD[type_name]:
        with pytest.raises(WrongValue):
            print(type_name, given, convert(type_name, kind_of(type_name), given))


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (True, "true"),
        (2.0, "2"),
        (1e300, "1e+300"),
        ([], "{}"),
        (['a"b', "c\\d", "{,}", ""], r'{"a\"b","c\\d","{,}",""}'),
        ([1.0, 2.5], "{1,2.5}"),
    ],
)
def test_defaults_are_written_as_postgres_reads_them(bound, text):
    assert input_text(bound) == text


def test_labels():
    assert Kind.TIMESTAMP.label == "TIMESTAMPTZ"
    assert Kind.NUMBER.label == "DOUBLE PRECISION"
