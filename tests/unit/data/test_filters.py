"""From ``where`` to SQL (contract part 20, 5.3): names are quoted, values are bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import Invalid
from app.data import filters
from app.data.contract import Field
from app.data.values import kind_of

FIELDS = {
    name: Field(name, kind, kind_of(kind))
    for name, kind in (
        ("name", "text"),
        ("n", "number"),
        ("tags", "[text]"),
        ("extra", "json"),
        ('we"ird', "text"),
    )
}


def built(where):
    """Return a condition as text with its parameters; no connection is asked."""
    statement, condition = filters.where(FIELDS, where)
    return _text(statement), condition.parameters


def _text(part):
    if hasattr(part, "seq"):
        return "".join(map(_text, part.seq))
    if hasattr(part, "strings"):
        return ".".join('"' + text.replace('"', '""') + '"' for text in part.strings)
    return part.string


@pytest.mark.parametrize(
    ("where", "text", "parameters"),
    [
        ({}, "TRUE", []),
        ({"name": "x"}, '(t."name" = %s::text)', ["x"]),
        ({"name": None}, '(t."name" IS NULL)', []),
        ({"n": {"$gt": 1, "$lte": "2"}}, None, ["1", "2"]),
        ({"n": {"$ne": None}}, '((t."n" IS NOT NULL))', []),
        ({"n": {"$in": []}}, "((FALSE))", []),
        ({"n": {"$nin": []}}, "((TRUE))", []),
        ({"n": {"$in": [1, "2"]}}, '((t."n" = ANY(%s::double precision[])))', [["1", "2"]]),
        ({"name": {"$ilike": "%a_"}}, '((t."name"::text ILIKE %s))', ["%a_"]),
        ({"tags": {"$contains": []}}, "((TRUE))", []),
        ({"tags": {"$contains": ["a"]}}, '((t."tags" @> %s::text[]))', [["a"]]),
        ({"extra": {"a": 1}}, '(t."extra" = %s::jsonb)', ['{"a":1}']),
        ({"n": {"$isNull": True}}, '((t."n" IS NULL))', []),
        ({"$or": []}, "(TRUE)", []),
        (
            {"$or": [{"name": "a"}, {"$not": {"n": 1}}]},
            '(((t."name" = %s::text)) OR ((NOT ((t."n" = %s::double precision)))))',
            ["a", "1"],
        ),
        ({'we"ird': "'; --"}, '(t."we""ird" = %s::text)', ["'; --"]),
    ],
)
def test_where(where, text, parameters):
    found, bound = built(where)
    assert bound == parameters
    assert text is None or found == text


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ([], "where must be an object"),
        ({"$not": 1}, "where must be an object"),
        ({"$and": [1]}, "where must be an object"),
        ({"$and": {}}, "$and needs an array"),
        ({"$nor": []}, "unknown operator '$nor'"),
        ({"n": {"$x": 1}}, "unknown operator '$x'"),
        ({"n": {"x": 1}}, "unknown operator 'x'"),
        ({"extra": {"$eq": 1, "a": 1}}, "unknown operator 'a'"),
        ({"zz": 1}, "unknown field 'zz'"),
        ({"n": {"$gt": None}}, "$gt needs a value"),
        ({"n": {"$in": 1}}, "$in needs an array"),
        ({"n": {"$nin": [None]}}, "$nin needs an array"),
        ({"name": {"$like": 1}}, "$like needs a string"),
        ({"n": {"$isNull": 1}}, "$isNull needs true or false"),
        ({"name": {"$contains": []}}, "$contains works on array fields only"),
        ({"tags": {"$contains": "a"}}, "$contains needs an array"),
        ({"name": [1]}, "field 'name': '[1]' is not a valid text"),
        ({"name": "\0a"}, "field 'name': 'a' is not a valid text"),
    ],
)
def test_bad_where(where, text):
    with pytest.raises(Invalid) as caught:
        built(where)
    assert caught.value.message == text


def test_nesting_is_limited():
    deep = {}
    for _ in range(31):
        deep = {"$not": deep}
    built(deep)
    with pytest.raises(Invalid, match="where is nested too deeply"):
        built({"$not": deep})


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
OPERATORS = st.sampled_from([*filters.OPERATIONS, "$and", "$or", "$not", "$x"])
WHERES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(OPERATORS | st.sampled_from([*FIELDS, "zz"]) | st.text(max_size=5), inner)
    ),
    max_leaves=15,
)


@given(WHERES)
def test_whatever_is_asked_values_never_become_sql(where):
    try:
        text, parameters = built(where)
    except Invalid:
        return
    assert text.count("%s") == len(parameters)
    for word in ("'", ";", "--"):
        assert word not in text
