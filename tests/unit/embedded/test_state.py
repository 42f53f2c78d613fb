"""The state directory."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.embedded.errors import EmbeddedError
from app.embedded.state import PORTS, StateDirectory, choose_port, port_is_free


def test_passwords_are_random_private_and_kept(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "a").read()
    assert StateDirectory(tmp_path / "a").read() == first
    other = StateDirectory(tmp_path / "b").read()
    secrets = {
        password
        for state in (first, other)
        for password in (state.admin_password, state.app_password, state.redis_password)
    }
    assert len(secrets) == 6
    assert (tmp_path / "a" / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(EmbeddedError, match="is not a data directory of Trellis"):
        StateDirectory(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letters"]


def test_a_directory_with_only_keys_is_ours(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    assert StateDirectory(tmp_path).read().instance


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="is not a directory"):
        StateDirectory(tmp_path / "file")
    with pytest.raises(EmbeddedError, match="is not a directory"):
        StateDirectory(tmp_path / "file" / "below")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "x": 2}'])
def test_a_damaged_state_file_is_named(tmp_path: Path, text: str) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(EmbeddedError, match=r"state\.json is damaged"):
        state.read()


def test_another_format_is_refused(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "state.json").write_text('{"format": 2}')
    with pytest.raises(EmbeddedError, match="another release"):
        state.read()


def test_the_lock_keeps_two_threads_apart(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    inside = 0
    most = 0

    def enter() -> None:
        nonlocal inside, most
        with StateDirectory(tmp_path).lock():
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(5)]
    with state.lock():
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        assert inside == 0
    for thread in threads:
        thread.join()
    assert most == 1


def test_writing_keeps_everything_else(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    before = state.read()
    state.write(replace(before, redis_port=20001))
    assert state.read() == replace(before, redis_port=20001)
    assert sorted(os.listdir(tmp_path)) == ["state.json", "state.lock"]


def test_chosen_ports_are_free_and_below_the_ephemeral_range() -> None:
    port = choose_port()
    assert port in PORTS
    assert port_is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not port_is_free(port)
