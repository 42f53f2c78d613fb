"""Loading is nearly all of a start, so each process leaves to later what only few requests need."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

RARE = {
    "anthropic",
    "authlib",
    "httpcore",
    "httpx",
    "joserfc",
    "jsonschema",
    "mcp",
    "openai",
    "psycopg",
    "psycopg_pool",
    "referencing",
}
WEB_ONLY = {"flask", "flask_smorest", "jinja2", "werkzeug"}
PROGRAMS = {
    "web": ("app.bootstrap, app.factory", RARE),
    "worker": ("tasks.assembly, tasks.consumer", RARE | WEB_ONLY),
    "beat": ("tasks.assembly, tasks.scheduler", RARE | WEB_ONLY),
    "up": ("app.cli.main, app.cli.up", RARE | WEB_ONLY | {"alembic", "celery", "sqlalchemy"}),
}


@pytest.mark.parametrize(("modules", "later"), PROGRAMS.values(), ids=PROGRAMS)
def test_what_a_start_does_not_need_is_not_loaded(modules, later):
    program = f"import json, sys, {modules}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "redis" in loaded
    assert loaded & later == set()


@pytest.mark.parametrize("name", sorted(RARE | WEB_ONLY))
def test_what_is_not_loaded_is_there(name):
    assert find_spec(name) is not None
