"""Memory of an idle worker process and the first call to a cold one, beside Celery and BullMQ."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from celery import Celery

from tests.bench import job_peers, stacks
from tests.bench.scratch import Missing
from tests.support.stack import ROOT

CHILDREN = 4


def memory(bench: stacks.Bench) -> None:
    """Q8: proportional share of memory of others' idle processes, each after some calls."""
    with _celery(bench, "prefork", CHILDREN) as (process, call):
        call(10 * CHILDREN)
        time.sleep(1)
        _show_memory("celery child", psutil.Process(process.pid).children(recursive=True))
    with ExitStack() as stack:
        try:
            peer = job_peers.ready(bench, "bullmq", stack)
        except Missing as exc:
            print(f"Q8 without bullmq: {exc}")
            return
        process = stack.enter_context(peer.working())
        peer.ask("rpc", 1, 0.2)
        _show_memory("bullmq worker", [psutil.Process(process.pid)])


def cold(bench: stacks.Bench, starts: int) -> None:
    """Q9: from the start of others' worker process to the answer of a call to it."""
    found = []
    for _ in range(starts):
        began = time.perf_counter()
        with _celery(bench, "solo", 1) as (_, call):
            call(1)
            found.append((time.perf_counter() - began) * 1000)
    _show_starts("celery", found)
    with ExitStack() as stack:
        try:
            peer = job_peers.ready(bench, "bullmq", stack)
            _show_starts("bullmq", peer.ask("cold", starts))
        except Missing as exc:
            print(f"Q9 without bullmq: {exc}")


@contextmanager
def _celery(
    bench: stacks.Bench, pool: str, children: int
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[int], None]]]:
    """Run the plain Celery worker; give its process and how to call it."""
    redis = bench.stack.env["REDIS_URL"].rpartition("/")[0] + "/1"
    command = [str(Path(sys.executable).parent / "celery"), "-A", "tests.bench.plain_app:celery"]
    command += ["worker", "--pool", pool, "--concurrency", str(children), "-l", "ERROR"]
    command += ["--without-gossip", "--without-mingle"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {**os.environ, "PLAIN_REDIS": redis}
    with Celery("plain", broker=redis, backend=redis) as client:

        def call(times: int) -> None:
            answers = [client.send_task("echo", [1]) for _ in range(times)]
            for answer in answers:
                answer.get(timeout=60)

        process = subprocess.Popen(command, cwd=ROOT, env=env, **quiet)
        try:
            yield process, call
        finally:
            process.terminate()
            process.wait(20)


def _show_memory(name: str, processes: list[psutil.Process]) -> None:
    sizes = [process.memory_full_info().pss / 1e6 for process in processes]
    print(f"Q8 {name}: PSS median {statistics.median(sizes):.1f} MB of {len(sizes)} processes")


def _show_starts(name: str, found: list[float]) -> None:
    print(
        f"Q9 {name}: start and first call, median {statistics.median(found):.0f} ms,"
        f" max {max(found):.0f} ms"
    )
