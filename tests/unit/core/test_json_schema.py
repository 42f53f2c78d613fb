import pytest

from app.core.errors import Invalid
from app.core.json_schema import check, violation, with_defaults

SCHEMA = {
    "type": "object",
    "required": ["to"],
    "properties": {
        "to": {"type": "string", "format": "email"},
        "days": {"type": "integer", "default": 14, "maximum": 30},
        "kind": {"enum": ["a", "b"]},
        "inner": {"type": "object", "properties": {"deep": {"default": []}}},
        "list": {"type": "array", "items": {"type": "object", "required": ["id"]}},
        "secret": {"type": "string", "minLength": 8, "pattern": "^x"},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, ("$", "'to' is a required property")),
        ({"to": 1}, ("$.to", "must be of type string")),
        ({"to": "x", "days": True}, ("$.days", "must be of type integer")),
        ({"to": "x", "days": "3"}, ("$.days", "must be of type integer")),
        ({"to": "x", "days": 31}, ("$.days", "does not fit maximum 30")),
        ({"to": "x", "kind": "c"}, ("$.kind", "must be one of a, b")),
        ({"to": "x", "list": [{"id": 1}, {}]}, ("$.list[1]", "'id' is a required property")),
        ({"to": "x", "hunter2": 1}, ("$", "has a property that is not allowed")),
        ("hunter2", ("$", "must be of type object")),
        ({"to": "x"}, None),
    ],
)
def test_the_place_and_the_rule_are_named(value, problem):
    assert violation(SCHEMA, value) == problem


def test_a_value_is_never_repeated():
    with pytest.raises(Invalid) as caught:
        check(SCHEMA, {"to": "x", "secret": "hunter2"}, "credentials")
    assert str(caught.value).startswith("credentials: $.secret: does not fit ")
    assert "hunter2" not in str(caught.value)


def test_defaults_fill_in_what_is_absent_and_change_nothing_else():
    given = {"to": "x", "inner": {}}
    assert with_defaults(SCHEMA, given) == {"to": "x", "inner": {"deep": []}, "days": 14}
    assert given == {"to": "x", "inner": {}}
    assert with_defaults(SCHEMA, [1]) == [1]
    assert with_defaults({}, {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "nonsense"},
        {"properties": 7},
        {"pattern": "("},
    ],
)
def test_a_schema_that_is_none_refuses_and_fetches_nothing(schema):
    assert violation(schema, "x") == ("$", "the schema it must fit is not valid")
