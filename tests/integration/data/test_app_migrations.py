"""Migrations of apps run once, in order, each on its own."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.core.errors import Invalid
from app.data.service import run_app_migrations

FILES = {
    "002_b.sql": "INSERT INTO things VALUES (2); -- 100% done",
    "001_a.sql": "CREATE TABLE things (id int); INSERT INTO things VALUES (1);",
    "003_c.sql": "-- nothing\n",
}


def things(platform):
    with platform.engine.connect() as connection:
        return connection.scalars(text("SELECT id FROM fleet.things ORDER BY id")).all()


def test_files_run_once_in_order_of_their_names(platform):
    assert run_app_migrations(platform.uow, "fleet", FILES) == sorted(FILES)
    assert (
        run_app_migrations(platform.uow, "fleet", {**FILES, "001_a.sql": "SELECT nonsense"}) == []
    )
    assert things(platform) == [1, 2]


def test_a_failing_file_stops_the_run_and_leaves_no_trace(platform):
    files = {**FILES, "002_b.sql": "INSERT INTO things VALUES (9); SELECT nope"}
    with pytest.raises(Invalid, match=r"migration '002_b\.sql': column \"nope\" does not exist"):
        run_app_migrations(platform.uow, "fleet", files)
    assert things(platform) == [1]
    assert run_app_migrations(platform.uow, "fleet", FILES) == ["002_b.sql", "003_c.sql"]


def test_two_runs_at_once_do_not_meet(platform):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_app_migrations, platform.uow, "fleet", FILES) for _ in range(2)]
        done = sorted(run.result() for run in runs)
    assert done == [[], sorted(FILES)]
    assert things(platform) == [1, 2]
