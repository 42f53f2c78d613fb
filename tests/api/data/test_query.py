"""Queries by condition and bulk creation."""

import pytest

from tests.api.data.conftest import DRIVERS, VEHICLES
from tests.support.api import error

ROWS = [
    {
        "plate": "a",
        "km": 1,
        "tags": ["x", "y"],
        "scores": [1, 2],
        "extra": {"k": 1},
        "bought_on": "2025-01-01",
    },
    {"plate": "b", "km": 2, "tags": ["y"], "scores": [], "extra": [1], "active": False},
    {"plate": "c", "km": 3, "tags": None, "extra": "text", "kind": "50%_x"},
    {"plate": "d", "tags": [], "seen_at": "2026-02-03T08:15:00Z"},
]


@pytest.fixture(scope="module")
def vehicles(shared_fleet):
    assert shared_fleet.post(f"{VEHICLES}/bulk", ROWS).status_code == 201
    return shared_fleet


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, "abcd"),
        ({"km": 1}, "a"),
        ({"km": "1"}, "a"),
        ({"km": None}, "d"),
        ({"km": {"$eq": 2}}, "b"),
        ({"km": {"$eq": None}}, "d"),
        ({"km": {"$ne": 2}}, "ac"),
        ({"km": {"$ne": None}}, "abc"),
        ({"km": {"$gt": 1, "$lte": 3}}, "bc"),
        ({"km": {"$gte": 2}}, "bc"),
        ({"km": {"$lt": 2}}, "a"),
        ({"plate": {"$in": ["a", "c", "zz"]}}, "ac"),
        ({"plate": {"$in": []}}, ""),
        ({"plate": {"$nin": []}}, "abcd"),
        ({"km": {"$nin": [1, "2"]}}, "c"),
        ({"km": {"$in": [1, 3.0]}}, "ac"),
        ({"plate": {"$like": "A"}}, ""),
        ({"plate": {"$ilike": "A"}}, "a"),
        ({"kind": {"$like": "50\\%\\_%"}}, "c"),
        ({"km": {"$like": "1%"}}, "a"),
        ({"tags": ["x", "y"]}, "a"),
        ({"tags": []}, "d"),
        ({"tags": {"$contains": ["y"]}}, "ab"),
        ({"tags": {"$contains": []}}, "abcd"),
        ({"tags": {"$in": [["y"], []]}}, "bd"),
        ({"scores": {"$contains": [2]}}, "a"),
        ({"scores": [1, 2]}, "a"),
        ({"extra": {"k": 1}}, "a"),
        ({"extra": [1]}, "b"),
        ({"extra": {"$eq": {"k": 1}}}, "a"),
        ({"extra": '"text"'}, "c"),
        ({"tags": {"$isNull": True}}, "c"),
        ({"tags": {"$isNull": False}}, "abd"),
        ({"active": False}, "b"),
        ({"active": "f"}, "b"),
        ({"bought_on": {"$lte": "2025-01-01"}}, "a"),
        ({"seen_at": "2026-02-03T09:15:00+01:00"}, "d"),
        ({"$and": [{"km": 1}, {"plate": "a"}]}, "a"),
        ({"$and": []}, "abcd"),
        ({"$or": []}, "abcd"),
        ({"$or": [{"km": 1}, {"plate": "d"}]}, "ad"),
        ({"$not": {"km": 1}}, "bc"),
        ({"km": {"$gt": 0}, "$or": [{"plate": "b"}, {"plate": "d"}]}, "b"),
    ],
)
def test_where(vehicles, where, found):
    answer = vehicles.post(
        f"{VEHICLES}/query", {"where": where, "orderBy": "plate", "order": "asc"}
    )
    assert answer.status_code == 200, answer.json
    assert "".join(row["plate"] for row in answer.json["data"]) == found
    assert answer.json["total"] == len(found)


def nested(depth):
    where = {"km": 1}
    for _ in range(depth - 1):
        where = {"$not": where}
    return where


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ([], "where must be an object"),
        ({"$not": []}, "where must be an object"),
        ({"$and": [1]}, "where must be an object"),
        ({"$or": {}}, "$or needs an array"),
        ({"$xor": []}, "unknown operator '$xor'"),
        ({"km": {"$foo": 1}}, "unknown operator '$foo'"),
        ({"km": {"$gt": 1, "x": 1}}, "unknown operator 'x'"),
        ({"extra": {"$eq": 1, "x": 1}}, "unknown operator 'x'"),
        ({"km": {"$gt": None}}, "$gt needs a value"),
        ({"km": {"$in": 1}}, "$in needs an array"),
        ({"km": {"$in": [None]}}, "$in needs an array"),
        ({"plate": {"$like": 1}}, "$like needs a string"),
        ({"km": {"$isNull": 1}}, "$isNull needs true or false"),
        ({"wheels": 1}, "unknown field 'wheels'"),
        ({"plate": {"$contains": ["a"]}}, "$contains works on array fields only"),
        ({"tags": {"$contains": "a"}}, "$contains needs an array"),
        ({"km": "abc"}, "field 'km': 'abc' is not a valid number"),
        ({"km": {"$in": ["1", "abc"]}}, "field 'km': 'abc' is not a valid number"),
        ({"km": [1]}, "field 'km': '[1]' is not a valid number"),
        ({"plate": "a", "seen_at": {"$gt": "x"}}, "field 'seen_at': 'x' is not a valid timestamp"),
        (nested(33), "where is nested too deeply"),
    ],
)
def test_bad_where(vehicles, where, text):
    assert error(vehicles.post(f"{VEHICLES}/query", {"where": where})) == (400, text)


def test_nesting_of_32_is_fine(vehicles):
    assert vehicles.post(f"{VEHICLES}/query", {"where": nested(32)}).status_code == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"orderBy": 1}, "'orderBy' must be a string"),
        ({"order": 1}, "'order' must be a string"),
        ({"limit": "5"}, "'limit' must be an integer"),
        ({"offset": 1.5}, "'offset' must be an integer"),
        ({"linked": "x"}, "'linked' must be a boolean or an array of strings"),
        ([], "body must be an object"),
    ],
)
def test_bad_queries(vehicles, body, text):
    assert error(vehicles.post(f"{VEHICLES}/query", body)) == (400, text)


def test_the_total_is_right_on_an_empty_page(vehicles):
    answer = vehicles.post(f"{VEHICLES}/query", {"offset": 50, "limit": 1})
    assert answer.json == {"data": [], "total": 4}
    assert len(vehicles.post(f"{VEHICLES}/query", {"limit": 0}).json["data"]) == 1


def test_bulk_limits(fleet):
    path = f"{DRIVERS}/bulk"
    assert error(fleet.post(path, {"name": "a"})) == (400, "body must be an array")
    assert error(fleet.post(path, [])) == (400, "array must not be empty")
    assert error(fleet.post(path, [{"name": "a"}] * 1001)) == (400, "at most 1000 records per call")
    names = [{"name": str(n)} for n in range(1000)]
    assert [row["name"] for row in fleet.post(path, names).json] == [str(n) for n in range(1000)]


@pytest.mark.parametrize(
    ("bad", "status", "text"),
    [
        ({"wheels": 1}, 400, "record 1: unknown field 'wheels'"),
        ({"plate": "a"}, 409, "record 1: duplicate value for plate"),
        ({"plate": "b", "km": -1}, 400, "record 1: check 'km_positive' not satisfied"),
        (7, 400, "record 1: body must be an object"),
    ],
)
def test_one_bad_record_stores_nothing(fleet, bad, status, text):
    answer = fleet.post(f"{VEHICLES}/bulk", [{"plate": "a"}, bad, {"plate": "z"}])
    assert error(answer) == (status, text)
    assert fleet.get(VEHICLES).json == []
