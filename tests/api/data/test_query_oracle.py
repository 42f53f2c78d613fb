"""Whatever ``where``, order and page a client asks for: exactly the rows an oracle names."""

import operator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

THINGS = "/apps/oracle/collections/things"
FIELDS = {"n": "number", "s": "text", "b": "boolean", "t": "[text]"}
ROWS = [
    {"n": n, "s": s, "b": b, "t": t}
    for n, s, b, t in (
        (None, None, None, None),
        (0, "", False, []),
        (1, "a", True, ["a"]),
        (1.5, "b", None, ["a", "b"]),
        (-3, "A", False, ["b"]),
        (100, "50%", True, None),
        (1, None, True, ["c", "a"]),
    )
]
COMPARE = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
VALUES = {
    "n": st.sampled_from([-3, 0, 1, 1.5, 2, 100]),
    "s": st.sampled_from(["", "a", "b", "A", "50%", "'", "%s"]),
    "b": st.booleans(),
}


def conditions(field, values):
    """Conditions on a scalar field."""
    ordered = [name for name in COMPARE if field == "n" or name in {"$eq", "$ne"}]
    return st.one_of(
        values,
        st.none(),
        st.dictionaries(st.sampled_from(ordered), values, min_size=1, max_size=2),
        st.fixed_dictionaries({"$in": st.lists(values, max_size=3)}),
        st.fixed_dictionaries({"$nin": st.lists(values, max_size=3)}),
        st.fixed_dictionaries({"$isNull": st.booleans()}),
    )


TAGS = st.fixed_dictionaries({"$contains": st.lists(st.sampled_from("abc"), max_size=2)})
LEAVES = st.fixed_dictionaries(
    {}, optional={**{f: conditions(f, v) for f, v in VALUES.items()}, "t": TAGS}
)
WHERES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$not": inner}),
        st.fixed_dictionaries({"$and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, max_size=3)}),
    ),
    max_leaves=6,
)


def every(truths):
    """AND of SQL's three truth values."""
    truths = list(truths)
    return False if False in truths else None if None in truths else True


def some(truths):
    """OR of SQL's three truth values."""
    truths = list(truths)
    return True if True in truths else None if None in truths else False


def matches(row, where):
    """Tell whether a row fulfils a condition: True, False or None (unknown)."""
    return every(_entry(row, key, value) for key, value in where.items())


def _entry(row, key, value):
    if key == "$not":
        inner = matches(row, value)
        return None if inner is None else not inner
    if key in {"$and", "$or"}:
        inner = [matches(row, item) for item in value]
        return (every if key == "$and" else some)(inner) if inner else True
    if not isinstance(value, dict):
        value = {"$eq": value}
    return every(_operator(row[key], name, operand) for name, operand in value.items())


def _operator(stored, name, operand):
    if name == "$isNull":
        return (stored is None) == operand
    if name in {"$in", "$nin"} and not operand:
        return name == "$nin"
    if name == "$contains" and not operand:
        return True
    if name in {"$eq", "$ne"} and operand is None:
        return (stored is None) == (name == "$eq")
    if stored is None:
        return None
    if name == "$contains":
        return set(operand) <= set(stored)
    if name in {"$in", "$nin"}:
        return (stored in operand) == (name == "$in")
    return COMPARE[name](stored, operand)


@pytest.fixture(scope="module")
def things(shared_admin):
    fields = [{"name": name, "type": kind} for name, kind in FIELDS.items()]
    contract = [{"entityName": "things", "fields": fields}]
    body = {"appId": "oracle", "name": "Oracle", "dataContract": contract}
    assert shared_admin.post("/apps", body).status_code == 200
    return shared_admin, shared_admin.post(f"{THINGS}/bulk", ROWS).json


@given(
    where=WHERES,
    descending=st.booleans(),
    limit=st.integers(-1, 9),
    offset=st.integers(-1, 9),
)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_rows_of_the_oracle_in_its_order(things, where, descending, limit, offset):
    client, rows = things
    body = {"where": where, "orderBy": "n", "order": "desc" if descending else "asc"}
    answer = client.post(f"{THINGS}/query", {**body, "limit": limit, "offset": offset})
    assert answer.status_code == 200, answer.json
    found = [row for row in rows if matches(row, where)]
    found.sort(key=lambda row: row["id"])
    found.sort(key=lambda row: (row["n"] is None, row["n"] or 0), reverse=descending)
    skip, most = max(offset, 0), max(limit, 1)
    assert answer.json == {"data": found[skip : skip + most], "total": len(found)}
