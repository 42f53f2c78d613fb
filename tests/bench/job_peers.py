"""Job queues that run beside ours: how each is started, and what is measured of all alike.

A peer is a script of ``tests/bench/peers`` in an environment of its own. It sends from its own
process, without HTTP; its worker notes the number of each job and the time as the first thing its
handler does, so that lost and doubled jobs are counted in the same way for all.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import scratch, stacks
from tests.bench.rounds import Rounds

SCRIPTS = Path(__file__).with_name("peers")
LIMIT_S = 180.0


@dataclass(frozen=True)
class Kind:
    """A peer before it runs.

    Attributes:
        note: what it keeps its jobs in.
        script: file of its script.
        program: returns the interpreter and the folder to run it in; installs what is missing.
        senders: how many jobs are sent at a time; what is fastest for it.
    """

    name: str
    note: str
    script: str
    program: Callable[[], tuple[Path, Path]]
    senders: int = 16


def _python(*packages: str) -> Callable[[], tuple[Path, Path]]:
    return lambda: (scratch.python(*packages), SCRIPTS)


def _node(*packages: str) -> Callable[[], tuple[Path, Path]]:
    return lambda: (Path("node"), scratch.npm(*packages))


POSTGRES, REDIS = "Postgres", "Redis, not durable"
KINDS = (
    Kind("celery", REDIS, "celery_peer.py", lambda: (Path(sys.executable), SCRIPTS), senders=1),
    Kind(
        "dramatiq", REDIS, "dramatiq_peer.py", _python("dramatiq==2.2.1", "redis==8.1.0"), senders=1
    ),
    Kind("bullmq", REDIS, "bullmq_peer.mjs", _node("bullmq@6.7.0", "ioredis@5.9.2")),
    Kind(
        "procrastinate",
        POSTGRES,
        "procrastinate_peer.py",
        _python("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
    ),
    Kind("awa", POSTGRES, "awa_peer.py", _python("awa-pg==0.6.9")),
    # The last line that runs on Node 20.
    Kind("graphile", POSTGRES, "graphile_peer.mjs", _node("graphile-worker@0.17.3")),
)


@dataclass
class Peer:
    """A peer with its store ready; its worker runs while ``working``."""

    kind: Kind
    command: list[str]
    folder: Path
    env: dict[str, str]
    notes: Path
    seen: int = 0

    def ask(self, *arguments: object) -> Any:
        """Run one command of the script and return its answer."""
        command = [*self.command, *map(str, arguments)]
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            timeout=LIMIT_S,
        )
        if done.returncode:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()[-400:]
            raise scratch.Missing(f"{' '.join(map(str, arguments))}: {words}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def fill(self, count: int) -> float:
        """Send jobs one by one and return the seconds it took."""
        return float(self.ask("fill", count, self.kind.senders))

    @contextmanager
    def working(self, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """Run the worker, or another command that does not end by itself."""
        command = [*self.command, *map(str, arguments or ("work",))]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.env, start_new_session=True, **quiet
        )
        try:
            yield process
        finally:
            _end(process)

    def handled(self, count: int) -> list[tuple[int, float]]:
        """Wait for that many handled jobs since the last call; return numbers and times.

        Jobs with a number below 0 only warm the sender up.
        """
        until = time.monotonic() + LIMIT_S
        while len(self._fresh()) < count and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        found = self._fresh()
        self.seen = self.notes.stat().st_size if self.notes.exists() else 0
        return found

    def _fresh(self) -> list[tuple[int, float]]:
        if not self.notes.exists():
            return []
        with self.notes.open() as lines:
            lines.seek(self.seen)
            pairs = [line.split() for line in lines if line.endswith("\n")]
        return [(int(number), float(at)) for number, at in pairs if not number.startswith("-")]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)


def ready(bench: stacks.Bench, name: str, stack: ExitStack) -> Peer:
    """Make one peer ready on our servers; ``stack`` cleans up after it.

    Raises:
        Missing: it cannot be had here.
    """
    place, kind = next((n, kind) for n, kind in enumerate(KINDS) if kind.name == name)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    program, work = kind.program()
    if kind.note == POSTGRES:
        server = bench.stack.env["DATABASE_URL"]
        address = stack.enter_context(stacks.database(server, f"bench_{kind.name}"))
    else:
        address = f"{bench.stack.env['REDIS_URL'].rpartition('/')[0]}/{place + 2}"
    notes = folder / kind.name
    env = {**os.environ, "PEER_URL": address, "PEER_NOTES": str(notes)}
    peer = Peer(kind, [str(program), str(SCRIPTS / kind.script)], work, env, notes)
    peer.ask("setup")
    return peer


def compare(
    label: str,
    bench: stacks.Bench,
    measure: Callable[[Peer, Rounds], tuple[float, str]],
    rounds: Rounds,
) -> dict[str, float]:
    """Measure every peer that can be had here; print what was found; return the figures."""
    found = {}
    for kind in KINDS:
        with ExitStack() as stack:
            try:
                peer = ready(bench, kind.name, stack)
                found[kind.name], line = measure(peer, rounds)
                print(f"{label} {kind.name:13s} {line}")
            except scratch.Missing as exc:
                print(f"{label} without {kind.name}: {exc}")
    return found


def enqueue_rate(peer: Peer, rounds: Rounds) -> tuple[float, str]:
    """Q1: jobs per second sent one by one from the peer's own process."""
    rates = [rounds.jobs / peer.fill(rounds.jobs) for _ in range(rounds.total)][rounds.warm_ups :]
    line = f"{spread(rates)} per s, in process, {peer.kind.senders} at a time, {peer.kind.note}"
    return statistics.median(rates), line


def latency(peer: Peer, rounds: Rounds) -> tuple[float, str]:
    """Q2: from the beginning of a send to the handler's first line, idle."""
    with peer.working():
        peer.ask("trickle", 1)
        peer.handled(1)
        begun = peer.ask("trickle", rounds.waits)
        noted = dict(peer.handled(rounds.waits))
    late = sorted((noted[n] - at) * 1000 for n, at in enumerate(begun) if n in noted)
    if not late:
        raise scratch.Missing("its worker handled nothing")
    p50, p99 = statistics.median(late), late[int(len(late) * 0.99)]
    lost = len(begun) - len(late)
    return p50, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, in process, {peer.kind.note}; lost {lost}"


def throughput(peer: Peer, rounds: Rounds) -> tuple[float, str]:
    """Q3: jobs per second of a worker that begins with a full queue."""
    rates, lost, doubled = [], 0, 0
    for _ in range(rounds.total):
        peer.fill(rounds.jobs)
        with peer.working():
            noted = peer.handled(rounds.jobs)
        if len(noted) < 2:
            raise scratch.Missing("its worker handled nothing")
        numbers, times = {number for number, _ in noted}, [at for _, at in noted]
        lost += rounds.jobs - len(numbers)
        doubled += len(noted) - len(numbers)
        rates.append(len(noted) / (max(times) - min(times)))
    rates = rates[rounds.warm_ups :]
    line = f"{spread(rates)} jobs/s, {peer.kind.note}   lost {lost}, doubled {doubled}"
    return statistics.median(rates), line


def spread(values: list[float]) -> str:
    """Return min / median / max."""
    return f"{min(values):8.0f} /{statistics.median(values):8.0f} /{max(values):8.0f}"
