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


def test_every_message_has_a_task_with_its_arguments():
    messaging = import_module("app.core.messaging")
    import_module("app.factory")
    import_module("tasks.registry")
    definitions = import_module("tasks.base").DEFINITIONS
    # Slotted dataclasses exist twice, so the names are compared, not the classes. Commands are
    # broadcasts of Celery's remote control and have no task.
    ours = {
        message.name
        for message in messaging.Message.__subclasses__()
        if message.__module__.startswith("app.") and message.__name__ != "Command"
    }
    assert ours == {definition.message.name for definition in definitions}
    for definition in definitions:
        accepted = set(signature(definition.body).parameters) - {"platform"}
        assert accepted == {f.name for f in fields(definition.message)}, definition.message
