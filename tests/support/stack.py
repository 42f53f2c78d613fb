"""The whole platform as real processes: web, workers and beat, as the Procfile runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from honcho.environ import parse_procfile

ROOT = Path(__file__).parents[2]
PASSWORD = "Str0ngPass!x"


def free_port() -> int:
    """Return a loopback port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], Any], *, timeout: float = 15, what: str = "condition"
) -> Any:
    """Return the first truthy value of a condition; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out after {timeout} s waiting for {what}")
        time.sleep(0.05)


def procfile_words(name: str, env: Mapping[str, str]) -> list[str]:
    """Return the command line of a process type, as the shell splits it."""
    command = parse_procfile((ROOT / "Procfile").read_text()).processes[name]
    words = subprocess.check_output(["/bin/sh", "-c", f"printf '%s\\0' {command}"], env=env)
    return words.decode().split("\0")[:-1]


Launch = Callable[[list[str], Mapping[str, str], Path], psutil.Process]


def launch(words: list[str], env: Mapping[str, str], log: Path) -> psutil.Process:
    """Start a process whose output is added to a file."""
    with log.open("ab") as file:
        return psutil.Popen(
            words, cwd=ROOT, env=dict(env), stdout=file, stderr=file, start_new_session=True
        )


@dataclass
class Stack:
    """Starts and ends processes of the platform on given servers."""

    env: dict[str, str]
    logs: Path
    launch: Launch = launch
    processes: dict[str, psutil.Process] = field(default_factory=dict)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.env['PORT']}"

    def start(self, name: str, kind: str | None = None, **env: str) -> psutil.Process:
        """Start one process type under a name; several may have one type."""
        environment = {"WORKER_NODE": name, "HOME": str(self.logs), **self.env, **env}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.defpath}"
        words = procfile_words(kind or name, environment)
        log = self.logs / f"{name}.log"
        log.touch()
        process = self.launch(words, environment, log)
        self.processes[name] = process
        return process

    def runs(self, name: str) -> bool:
        """Tell whether a process was started and has not ended."""
        process = self.processes.get(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            return process is not None and process.status() != psutil.STATUS_ZOMBIE
        return False

    def log(self, name: str) -> str:
        """Return what a process wrote so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process; SIGKILL and SIGTERM also wait for its end."""
        process = self.processes[name]
        # Without its parent, gunicorn's worker would answer on the port for another second.
        workers = process.children() if name == "web" and number == signal.SIGKILL else []
        process.send_signal(number)
        for worker in workers:
            worker.kill()
        if number in {signal.SIGKILL, signal.SIGTERM}:
            process.wait(30)
            del self.processes[name]

    def stop(self) -> None:
        """Kill everything that still runs, children included: nothing is waited for."""
        everything: list[psutil.Process] = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                everything += [process, *process.children(recursive=True)]
        for member in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        for process in self.processes.values():
            process.wait(10)
        for client in self.clients:
            client.close()

    def wait_ready(self) -> None:
        """Wait until the API answers and a node is alive."""

        def ready() -> bool:
            for name in self.processes:
                assert self.runs(name), f"{name} ended:\n{self.log(name)[-4000:]}"
            with contextlib.suppress(httpx.HTTPError):
                healthy = probe.get(f"{self.url}/health").status_code == 200
                return healthy and self._nodes_started()
            return False

        with httpx.Client(verify=False) as probe:
            wait_until(ready, timeout=30, what="the API")

    def _nodes_started(self) -> bool:
        """Tell whether every worker has its runtime and consumes."""
        names = [name for name in self.processes if name.startswith("worker")]
        return all(" ready." in self.log(name) for name in names)

    def client(self, token: str | None = None) -> httpx.Client:
        """Return a client of the API; it is closed with the stack at the latest."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Plain HTTP has no use for certificates; reading them takes 40 ms of CPU per client.
        client = httpx.Client(
            base_url=f"{self.url}/api/v1", headers=headers, timeout=40, verify=False
        )
        self.clients.append(client)
        return client

    def sign_up(self, email: str) -> httpx.Client:
        """Register and log in; return the user's client."""
        with self.client() as anonymous:
            body = {"email": email, "password": PASSWORD}
            anonymous.post("/auth/register", json=body)
            return self.client(anonymous.post("/auth/login", json=body).json()["accessToken"])


@contextlib.contextmanager
def running_stack(
    env: dict[str, str], logs: Path, names: tuple[str, ...], launch: Launch = launch
) -> Iterator[Stack]:
    """Run process types until the end of the block."""
    port = str(free_port())
    stack = Stack({"PUBLIC_URL": f"http://127.0.0.1:{port}", **env, "PORT": port}, logs, launch)
    try:
        for name in names:
            stack.start(name)
        if "web" in names:
            stack.wait_ready()
        yield stack
    finally:
        stack.stop()
