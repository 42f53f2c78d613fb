"""The runtime's settings and the environment it is given."""

from __future__ import annotations

import pytest

from config.runtime import (
    SANDBOX_FLOORS,
    RuntimeSettings,
    load_runtime_settings,
    runtime_environment,
)
from workers_runtime.sandbox import LEVELS, process_environment


def test_defaults_are_the_contracts() -> None:
    settings = load_runtime_settings({})
    assert settings == RuntimeSettings()
    assert (settings.handshake_timeout_s, settings.stop_grace_s) == (10, 5)
    assert (settings.max_crashes, settings.crash_window_s) == (5, 60)
    assert (settings.procs_per_node, settings.memory_mb) == (128, 512)


def test_values_are_read() -> None:
    settings = load_runtime_settings({"RPC_TIMEOUT": "1.5", "WORKER_PROCS_PER_NODE": "3"})
    assert (settings.rpc_timeout_s, settings.procs_per_node) == (1.5, 3)


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf"])
def test_bad_numbers_name_the_variable(text: str) -> None:
    with pytest.raises(ValueError, match="RPC_TIMEOUT: must be a number of seconds above 0"):
        load_runtime_settings({"RPC_TIMEOUT": text})


def test_whole_numbers() -> None:
    with pytest.raises(ValueError, match="WORKER_MEMORY_MB: must be a whole number from 1"):
        load_runtime_settings({"WORKER_MEMORY_MB": "1.5"})


def test_the_floor_is_one_of_the_levels() -> None:
    assert load_runtime_settings({"WORKER_SANDBOX_FLOOR": "strict"}).sandbox_floor == "strict"
    assert tuple(reversed(LEVELS)) == SANDBOX_FLOORS
    text = "WORKER_SANDBOX_FLOOR: must be one of none, basic, isolated, strict"
    with pytest.raises(ValueError, match=text):
        load_runtime_settings({"WORKER_SANDBOX_FLOOR": "high"})


def test_runtime_gets_no_url_and_no_key() -> None:
    env = {
        "DATABASE_URL": "x",
        "REDIS_URL": "x",
        "JWT_SECRET": "x",
        "MASTER_KEY": "x",
        "PATH": "/bin",
        "PIP_INDEX_URL": "https://index",
        "RPC_TIMEOUT": "5",
    }
    assert set(runtime_environment(env)) == {"PATH", "PIP_INDEX_URL", "RPC_TIMEOUT"}


def test_secrets_cannot_override_or_inject() -> None:
    secrets = {
        "PATH": "/evil",
        "LD_PRELOAD": "x",
        "DYLD_X": "x",
        "TRELLIS_NEW": "x",
        "1DIGIT": "x",
        "A B": "x",
        "NUL": "a\0b",
        "SMTP": "ok",
        "EMPTY": "",
    }
    assert process_environment({"PATH": "/bin"}, secrets) == {
        "PATH": "/bin",
        "SMTP": "ok",
        "EMPTY": "",
    }
