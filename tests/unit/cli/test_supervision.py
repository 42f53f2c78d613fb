"""Supervision, shown on a Procfile of small stand-in programs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.cli.supervisor import BACKOFF_MOST_S, backoff_s
from app.embedded.state import choose_port
from tests.support.up import TRELLIS, Up, clean_env, gone

# Given servers are not started, and nothing in these Procfiles talks to them.
GIVEN = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
PROGRAM = """
import signal, sys, time
name = sys.argv[1]
def end(*_):
    print(name, "leaves", flush=True)
    time.sleep(float(sys.argv[2]))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(name, "works", flush=True)
time.sleep(600)
"""
Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "program.py").write_text(PROGRAM)
    running: list[Up] = []

    def run(procfile: str, *arguments: object, data: str = "data") -> Up:
        (tmp_path / "Procfile").write_text(procfile)
        where = ["--procfile", tmp_path / "Procfile", "--data-dir", tmp_path / data]
        port = [] if "--port" in arguments else ["--port", choose_port()]
        running.append(Up(["up", *where, *port, *arguments], GIVEN))
        return running[-1]

    yield run
    for up in running:
        up.destroy()


def program(name: str, linger_s: float = 0.0) -> str:
    return f"{name}: python program.py {name} {linger_s}\n"


def test_backoff_doubles_up_to_a_limit() -> None:
    waits = [backoff_s(failures) for failures in range(1, 40)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_MOST_S
    assert waits == sorted(waits)


def test_one_log_with_a_prefix_for_each_process(start: Start) -> None:
    up = start(program("web") + program("worker"))
    up.wait_for("web works")
    up.wait_for("worker works")
    assert any(line.split("|")[0].split()[-1] == "worker" for line in up.lines if "works" in line)
    assert up.stop() == 0


def test_the_worker_stops_after_those_who_send_it_work(start: Start) -> None:
    up = start(program("worker") + program("beat", 0.3) + program("web", 0.6))
    for name in ("worker", "beat", "web"):
        up.wait_for(f"{name} works")
    below = up.children()
    assert up.stop() == 0
    order = [line.rpartition("| ")[2] for line in up.lines]
    assert order.index("worker leaves") > order.index("web stopped")
    assert order.index("worker leaves") > order.index("beat stopped")
    assert order[-1] == "Stopped."
    assert gone(below)


def test_a_process_that_ends_is_started_again(start: Start) -> None:
    up = start(program("web") + "worker: python -c \"print('hello'); raise SystemExit(7)\"\n")
    up.wait_for("hello", times=3)
    assert "worker ended with exit code 7; next start in 0.5 s" in up.log
    assert "worker ended with exit code 7; next start in 1 s" in up.log
    assert up.log.count("web works") == 1
    assert up.stop(signal.SIGINT) == 0


def test_a_killed_process_is_reported_with_its_signal(start: Start) -> None:
    up = start(program("web"))
    up.wait_for("web works")
    [child] = up.children()
    child.kill()
    up.wait_for("web ended with signal SIGKILL")
    up.wait_for("web works", times=2)


def test_a_second_signal_does_not_wait(start: Start) -> None:
    up = start(program("web", linger_s=600))
    up.wait_for("web works")
    below = up.children()
    up.process.send_signal(signal.SIGINT)
    up.wait_for("web leaves")
    began = time.monotonic()
    assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 5
    assert gone(below)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
def test_processes_end_with_a_killed_supervisor(start: Start) -> None:
    up = start(program("web") + program("worker"))
    up.wait_for("web works")
    up.wait_for("worker works")
    below = up.children()
    assert len(below) == 2
    up.stop(signal.SIGKILL)
    assert gone(below)


def test_the_next_start_ends_what_a_killed_supervisor_left(start: Start) -> None:
    stubborn = "web: python -c \"import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(600)\"\n"
    up = start(stubborn)
    up.wait_for("on")
    below = up.children()
    up.stop(signal.SIGKILL)
    again = start(program("web"))
    again.wait_for("web works")
    assert "that an earlier run left behind" in again.log
    assert gone(below)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the subreaper")
def test_no_orphan_escapes(start: Start, tmp_path: Path) -> None:
    note = tmp_path / "orphan.pid"
    (tmp_path / "leak.py").write_text(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    up = start(program("web") + "worker: python leak.py\n")
    up.wait_until(lambda: note.exists() and note.read_text() != "", 30, "orphan")
    orphan = psutil.Process(int(note.read_text()))
    parent = orphan.parent()
    assert parent is not None
    note.unlink()
    parent.kill()
    assert gone([orphan])
    up.wait_until(lambda: note.exists() and note.read_text() != "", 30, "second orphan")
    second = psutil.Process(int(note.read_text()))
    assert up.stop() == 0
    assert gone([second], timeout_s=1)


def test_everything_stops_in_order_when_nobody_reads_the_log(start: Start, tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text(program("web", 0.2) + program("worker"))
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = ["up", "--procfile", tmp_path / "Procfile", "--data-dir", tmp_path / "data"]
    process = subprocess.Popen(
        [str(TRELLIS), *map(str, arguments), "--port", str(choose_port())],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env(GIVEN),
    )
    assert process.stdout is not None
    while "worker works" not in process.stdout.readline():
        pass
    below = psutil.Process(process.pid).children(recursive=True)
    process.stdout.close()
    process.terminate()
    process.wait(30)
    assert gone(below)


def test_the_release_step_runs_first_and_its_failure_is_final(start: Start) -> None:
    up = start("release: python -c \"raise SystemExit('no such table')\"\n" + program("web"))
    assert up.end() == 1
    assert "no such table" in up.log
    assert "The release step `python -c" in up.lines[-1]
    assert "failed with exit code 1." in up.lines[-1]
    assert "web works" not in up.log


def test_children_see_urls_and_port_and_nothing_of_embedding(start: Start) -> None:
    port = choose_port()
    names = ("DATABASE_URL", "REDIS_URL", "PORT", "PUBLIC_URL", "TRELLIS_DATA_DIR")
    code = f"import os; print([os.environ[n] for n in {names}], flush=True)"
    up = start(f'web: python -c "{code}"\n', "--port", port)
    up.wait_for(str(port))
    for value in (*GIVEN.values(), f"http://localhost:{port}", "data'"):
        assert value in up.log


def test_a_taken_port_is_one_sentence(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = start(program("web"), "--port", port)
        assert up.end() == 1
    [line] = up.lines
    assert line.startswith(f"trellis: Port {port} is taken by ")
    assert str(os.getpid()) in line
    assert line.endswith("choose another one with --port.")


def test_a_data_directory_in_use_is_one_sentence(start: Start, tmp_path: Path) -> None:
    first = start(program("web"))
    first.wait_for("web works")
    second = start(program("web"))
    assert second.end() == 1
    [line] = second.lines
    assert line == (
        f"trellis: {tmp_path}/data is in use by another `trellis up` (process {first.process.pid}): "
        "stop that one or choose another --data-dir."
    )
    assert first.stop() == 0


def test_a_foreign_data_directory_is_one_sentence(start: Start, tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"")
    up = start(program("web"), data="photos")
    assert up.end() == 1
    assert up.lines == [
        f"trellis: {foreign} is not empty and is not a data directory of Trellis: "
        "choose another one with --data-dir."
    ]
    assert [entry.name for entry in foreign.iterdir()] == ["cat.jpg"]


def test_a_malformed_setting_is_one_sentence(tmp_path: Path) -> None:
    up = Up(["up", "--data-dir", tmp_path / "data"], GIVEN | {"JOB_VISIBILITY_TIMEOUT": "soon"})
    assert up.end() == 1
    [line] = up.lines
    assert line.startswith("trellis: JOB_VISIBILITY_TIMEOUT: ")
