"""``trellis up`` on data that is there: until ``/health`` answers, until all is ready, and its CPU.

The first start, which makes the data, is not counted. ``python -m tests.bench.start``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.embedded.servers import temporary_state_dir
from tests.bench.install import cpu_s
from tests.bench.rounds import FULL, Rounds
from tests.support.stack import free_port
from tests.support.up import Up

READY = "Trellis is ready at"
READY_TARGET_S = 3.0
LIMIT_S = 120.0


@dataclass(frozen=True)
class Start:
    """Seconds of one start: of the clock until two moments, and of the CPU until the second."""

    health: float
    ready: float
    cpu: float


def main(rounds: Rounds = FULL) -> None:
    """Print min / median / max of each quantity."""
    with temporary_state_dir() as data_dir:
        measure(data_dir)
        starts = [measure(data_dir) for _ in range(rounds.measured)]
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(
        f"start on present data: /health {_spread([s.health for s in starts])} s,"
        f" ready {_spread([s.ready for s in starts])} s (must < {READY_TARGET_S:g} s),"
        f" CPU {_spread([s.cpu for s in starts])} s, load per core {load:.1f}"
    )


def measure(data_dir: Path) -> Start:
    """Start the platform, stop it again and return what the start took."""
    port = free_port()
    # One for all the asking, for making one takes tens of milliseconds of the same processor.
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1) as client:
        began = time.perf_counter()
        up = Up(["up", "--port", port, "--data-dir", data_dir])
        try:
            up.wait_until(lambda: _answers(client), LIMIT_S, "answer of /health")
            health = time.perf_counter() - began
            up.wait_for(READY, timeout_s=LIMIT_S)
            return Start(health, time.perf_counter() - began, cpu_s())
        finally:
            up.stop()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


if __name__ == "__main__":
    main()
