"""Rules of the layout that no linter knows."""

from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    p
    for d in ("app", "tasks", "config", "workers_runtime", "migrations")
    for p in (ROOT / d).rglob("*.py")
]


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name == "__init__.py" and "sdk" not in p.parts], ids=str
)
def test_packages_are_empty(path):
    assert path.read_text() == ""


def test_services_never_commit():
    offenders = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.name in {"service.py", "repository.py", "models.py"}
        and any(call in path.read_text() for call in (".commit()", ".rollback()"))
    ]
    assert offenders == []


def test_every_queue_is_consumed_by_the_procfile():
    queues = import_module("app.core.messaging").Queue
    worker = next(
        line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("worker:")
    )
    consumed = worker.split("-Q ")[1].split()[0].split(",")
    assert set(consumed) == {queue.value for queue in queues}


def leaves(base):
    """Return the message types below a base that nothing is derived from."""
    below = base.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {base}


def test_every_message_has_a_task_with_its_arguments():
    messaging = import_module("app.core.messaging")
    import_module("app.factory")
    import_module("tasks.registry")
    declared = {definition.message for definition in import_module("tasks.base").DEFINITIONS}
    ours = {
        message for message in leaves(messaging.Message) if message.__module__.startswith("app.")
    }
    assert ours == declared
    for definition in import_module("tasks.base").DEFINITIONS:
        accepted = set(signature(definition.body).parameters) - {"platform"}
        assert accepted == {f.name for f in fields(definition.message)}, definition.message
