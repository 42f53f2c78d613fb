"""Whatever a client filters by, the answer is rows or a 400, and the tables stay as they are."""

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MANIFEST = {
    "appId": "probe",
    "name": "Probe",
    "dataContract": [
        {
            "entityName": "things",
            "fields": [
                {"name": name, "type": kind}
                for name, kind in (
                    *(("words", "text"), ("number", "number"), ("flag", "boolean")),
                    *(("day", "date"), ("moment", "timestamp"), ("doc", "json")),
                    *(("ref", "uuid"), ("tags", "[text]"), ("marks", "[number]")),
                )
            ],
        }
    ],
}
THINGS = "/apps/probe/collections/things"
ROW = {
    "words": 'it\'s 100% \\ "x"',
    "number": 1.5,
    "flag": True,
    "day": "2026-01-01",
    "moment": "2026-01-01T00:00:00Z",
    "doc": {"a": [1]},
    "ref": "5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11",
    "tags": ["a"],
    "marks": [1.0],
}
NASTY = st.sampled_from(
    [
        *("'; DROP TABLE probe.things; --", '" OR 1=1 --', "%s", "%(x)s", "{}", "$1", "\\", "\x00"),
        *("now", "infinity", "NaN", "1e999", "{a,b}", "[1,", "null", "💥", "a" * 300, "", " "),
    ]
)
SCALARS = st.one_of(
    NASTY,
    st.text(max_size=8),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = st.one_of(st.sampled_from([*ROW, "id", "created_at"]), NASTY)
OPERATORS = st.sampled_from(
    [
        "$eq",
        "$ne",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$like",
        "$ilike",
        "$in",
        "$nin",
        "$contains",
        "$isNull",
        "$x",
    ]
)
LEAVES = st.dictionaries(
    FIELDS,
    st.one_of(VALUES, st.dictionaries(OPERATORS, VALUES, min_size=1, max_size=2)),
    max_size=2,
)
WHERES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$not": inner}),
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, max_size=3), min_size=1),
    ),
    max_leaves=5,
)
ATTACK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def things(admin):
    assert admin.post("/apps", MANIFEST).status_code == 200
    assert admin.post(THINGS, ROW).status_code == 201
    return admin


def intact(client):
    (row,) = client.get(THINGS).json
    return {name: row[name] for name in ROW} == ROW


@given(data=st.data())
@ATTACK
def test_where(things, data):
    body = {"where": data.draw(WHERES), "orderBy": data.draw(FIELDS), "order": data.draw(NASTY)}
    answer = things.post(f"{THINGS}/query", data=json.dumps(body).encode())
    assert answer.status_code in {200, 400}, answer.text
    if answer.status_code == 400:
        assert set(answer.json) == {"error"}
    assert intact(things)


@given(data=st.data())
@ATTACK
def test_query_parameters(things, data):
    parameters = data.draw(
        st.dictionaries(
            st.one_of(FIELDS, st.sampled_from(["sort", "limit", "offset"])), NASTY, max_size=3
        )
    )
    text = "&".join(f"{quote(k)}={quote(v)}" for k, v in parameters.items())
    answer = things.get(f"{THINGS}?{text}")
    assert answer.status_code in {200, 400}, answer.text
    assert intact(things)


@given(data=st.data())
@ATTACK
def test_bodies(things, data):
    body = data.draw(st.dictionaries(FIELDS, VALUES, max_size=4))
    answer = things.post(THINGS, data=json.dumps(body).encode())
    assert answer.status_code in {201, 400}, answer.text
    if answer.status_code == 201:
        record = answer.json
        assert things.get(f"{THINGS}/{record['id']}").json == record
        assert things.delete(f"{THINGS}/{record['id']}").status_code == 200
    assert intact(things)
