"""The small commands and the project's own files."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
from pathlib import Path

from honcho.environ import parse_procfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.cli.place import PROJECT
from app.core.messaging import Queue
from tests.support.up import Up


def test_version_is_that_of_the_distribution() -> None:
    up = Up(["version"])
    assert up.end() == 0
    assert up.lines == [importlib.metadata.version("trellis-platform")]


def test_migrate_needs_a_database(tmp_path: Path) -> None:
    up = Up(["migrate", "--data-dir", tmp_path / "none"])
    assert up.end() == 1
    [line] = up.lines
    assert line.startswith("trellis: DATABASE_URL: must be set")


def test_migrate_says_why_and_keeps_the_password(tmp_path: Path) -> None:
    up = Up(["migrate"], {"DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x"})
    assert up.end() == 1
    [line] = up.lines
    assert line.startswith("trellis: DATABASE_URL: connection to server")
    assert "geheim" not in up.log


def test_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    env = {
        "DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    up = Up(["doctor", "--data-dir", tmp_path / "none"], env)
    assert up.end() == 1
    assert any(line.startswith("BAD  database: ") for line in up.lines)
    assert any(line.startswith("BAD  broker: ") for line in up.lines)
    assert "geheim" not in up.log
    assert not (tmp_path / "none").exists()


def test_every_queue_is_consumed_by_the_procfile_and_by_compose() -> None:
    worker = parse_procfile((PROJECT / "Procfile").read_text()).processes["worker"]
    consumed = worker.split("-Q ")[1].split()[0].split(",")
    assert sorted(consumed) == sorted(queue.value for queue in Queue)
    compose = (PROJECT / "docker-compose.yml").read_text()
    assert f"-Q {','.join(consumed)} " in compose


def test_lock_files_pin_every_dependency_inside_its_range() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    extras = setup["options.extras_require"]
    running = setup["options"]["install_requires"]
    for name, wanted in (
        ("requirements.lock", running),
        ("requirements-dev.lock", running + extras["test"] + extras["lint"]),
    ):
        text = (PROJECT / name).read_text()
        pins = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", text, flags=re.MULTILINE))
        for requirement in map(Requirement, filter(None, wanted.splitlines())):
            pin = pins.get(canonicalize_name(requirement.name), "")
            assert pin in requirement.specifier, f"{name}: run make lock for {requirement}"


def test_lock_files_name_no_index() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (PROJECT / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        assert "--hash=sha256:" in text
