"""Lists: paging, order, filters, streaming."""

import json

import psutil
import pytest

from tests.api.data.conftest import DRIVERS, VEHICLES
from tests.support.api import error


@pytest.fixture(scope="module")
def many(shared_fleet):
    """Fifteen vehicles made in one call, so with equal ``created_at``."""
    rows = [{"plate": f"p{n:02}", "km": n, "tags": ["a"] if n % 2 else []} for n in range(15)]
    answer = shared_fleet.post(f"{VEHICLES}/bulk", rows)
    assert answer.status_code == 201, answer.json
    return shared_fleet


def plates(answer):
    assert answer.status_code == 200, answer.json
    return [record["plate"] for record in answer.json]


def test_pages_neither_repeat_nor_skip_rows_with_equal_times(many):
    seen = []
    for offset in (0, 5, 10, 15):
        seen += plates(many.get(f"{VEHICLES}?limit=5&offset={offset}"))
    assert len(seen) == 15
    assert len(set(seen)) == 15
    assert sorted(seen) == [f"p{n:02}" for n in range(15)]


def test_sort_and_order(many):
    up = plates(many.get(f"{VEHICLES}?sort=km&order=ASC"))
    assert up == [f"p{n:02}" for n in range(15)]
    assert plates(many.get(f"{VEHICLES}?sort=km&order=whatever&limit=3")) == ["p14", "p13", "p12"]
    assert plates(many.get(f"{VEHICLES}?sort=nope&limit=1")) == plates(
        many.get(f"{VEHICLES}?limit=1")
    )


def test_nulls_come_first_descending_and_last_ascending(many):
    made = many.post(VEHICLES, {"plate": "null"}).json
    assert plates(many.get(f"{VEHICLES}?sort=km&limit=1")) == ["null"]
    assert plates(many.get(f"{VEHICLES}?sort=km&order=asc"))[-1] == "null"
    many.delete(f"{VEHICLES}/{made['id']}")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("limit=0", 1),
        ("limit=-5", 1),
        ("limit=abc", 15),
        ("limit=99999", 15),
        ("limit=5&limit=2", 2),
        ("offset=-1&limit=3", 3),
        ("offset=x", 15),
        ("offset=10", 5),
        ("offset=100", 0),
    ],
)
def test_limit_and_offset_are_clamped(many, query, count):
    assert len(many.get(f"{VEHICLES}?{query}").json) == count


def test_a_limit_that_is_no_number_is_100(fleet):
    fleet.post(f"{DRIVERS}/bulk", [{"name": str(n)} for n in range(120)])
    assert len(fleet.get(f"{DRIVERS}?limit=abc").json) == 100
    assert len(fleet.get(DRIVERS).json) == 120


def test_filters(many):
    assert plates(many.get(f"{VEHICLES}?km=3")) == ["p03"]
    assert plates(many.get(f"{VEHICLES}?km=3.0&plate=p03&limit=5")) == ["p03"]
    assert plates(many.get(f"{VEHICLES}?km=3&plate=p04")) == []
    assert plates(many.get(f"{VEHICLES}?km=1&km=2")) == ["p02"]
    assert len(plates(many.get(f"{VEHICLES}?active=t"))) == 15
    assert len(plates(many.get(f'{VEHICLES}?tags=["a"]'))) == 7
    record = many.get(f"{VEHICLES}?km=7").json[0]
    assert plates(many.get(f"{VEHICLES}?id={record['id']}")) == ["p07"]
    assert len(plates(many.get(f"{VEHICLES}?created_at={record['created_at']}"))) == 15


@pytest.mark.parametrize("suffix", ["", "&limit=5"])
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("wheels=4", "unknown field 'wheels'"),
        ("km=abc", "field 'km': 'abc' is not a valid number"),
        ("plate=x&km=abc", "field 'km': 'abc' is not a valid number"),
        ("active=maybe&km=1", "field 'active': 'maybe' is not a valid boolean"),
        ("bought_on=2025-02-30", "field 'bought_on': '2025-02-30' is not a valid date"),
        ("id=x", "field 'id': 'x' is not a valid uuid"),
        ("tags=a", "field 'tags': 'a' is not a valid [text]"),
        ("scores=[true]", "field 'scores': '[true]' is not a valid [number]"),
        ("extra={", "field 'extra': '{' is not a valid json"),
    ],
)
def test_bad_filters(many, query, text, suffix):
    assert error(many.get(f"{VEHICLES}?{query}{suffix}")) == (400, text)


def test_a_filter_with_nul_is_refused(many):
    assert error(many.get(f"{VEHICLES}?plate=a%00b"))[0] == 400


def test_a_field_named_like_a_parameter_is_filtered_by_query_only(fleet):
    fleet.post(DRIVERS, {"name": "a", "order": "asc"})
    fleet.post(DRIVERS, {"name": "b", "order": "desc"})
    assert len(fleet.get(f"{DRIVERS}?order=desc").json) == 2
    found = fleet.post(f"{DRIVERS}/query", {"where": {"order": "desc"}}).json
    assert [row["name"] for row in found["data"]] == ["b"]


def test_a_list_of_everything_streams(fleet):
    for _ in range(3):
        fleet.post(f"{DRIVERS}/bulk", [{"name": f"n{n}"} for n in range(1000)])
    answer = fleet.get(DRIVERS, buffered=False)
    pieces = list(answer.iter_encoded())
    assert len(pieces) > 5
    assert len(json.loads(b"".join(pieces))) == 3000


def test_memory_stays_flat_however_many_rows_there_are(fleet, platform):
    with platform.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE fleet.drivers DISABLE TRIGGER USER")
        connection.exec_driver_sql(
            "INSERT INTO fleet.drivers (name) SELECT repeat('x', 2000)"
            " FROM generate_series(1, 30000)"
        )
    process, size = psutil.Process(), 0
    answer = fleet.get(DRIVERS, buffered=False)
    pieces = answer.iter_encoded()
    next(pieces)
    before = most = process.memory_info().rss
    for piece in pieces:
        size += len(piece)
        most = max(most, process.memory_info().rss)
    assert size > 60_000_000
    assert most - before < 20_000_000


def test_an_abandoned_stream_gives_its_connection_back(fleet, platform):
    fleet.post(f"{DRIVERS}/bulk", [{"name": f"n{n}"} for n in range(1000)])
    for _ in range(8):
        answer = fleet.get(DRIVERS, buffered=False)
        next(iter(answer.iter_encoded()))
        answer.close()
    assert platform.engine.pool.checkedout() == 0
