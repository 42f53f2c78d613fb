"""The migrations and the mapped classes describe the same tables."""

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from app.core.db import SCHEMA
from migrations.runner import alembic_config, downgrade, upgrade


def tables(url):
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names(schema=SCHEMA))
    finally:
        engine.dispose()


def test_upgrading_from_nothing_gives_the_models_metadata(databases):
    with databases.empty() as url:
        upgrade(url)
        command.check(alembic_config(url))


def test_there_is_one_head_and_files_are_numbered(databases):
    with databases.empty() as url:
        script = ScriptDirectory.from_config(alembic_config(url))
    revisions = [r.revision for r in script.walk_revisions()]
    assert len(script.get_heads()) == 1
    assert sorted(revisions) == [f"{n:04d}" for n in range(1, len(revisions) + 1)]


def test_every_migration_goes_down_and_up_again(databases):
    with databases.empty() as url:
        upgrade(url)
        full = tables(url)
        script = ScriptDirectory.from_config(alembic_config(url))
        for revision in [r.revision for r in script.walk_revisions()]:
            downgrade(url, _before(script, revision))
        assert tables(url) <= {"alembic_version"}
        upgrade(url)
        assert tables(url) == full


def test_upgrading_twice_changes_nothing(databases):
    with databases.empty() as url:
        upgrade(url)
        before = tables(url)
        upgrade(url)
        assert tables(url) == before


def _before(script, revision):
    down = script.get_revision(revision).down_revision
    return down or "base"
