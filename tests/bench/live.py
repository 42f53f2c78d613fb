"""Q6, Q8, Q9 and fairness: log lines, idle processes, cold starts, a busy neighbour.

``python -m tests.bench.live [Q6 Q8 Q9 fair]``.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field

from tests.bench import live_peers, load, stacks
from tests.bench.jobs import CLOCK, NOTHING, queued, run_sql, wait_for

SPEAKER = """
import time
from trellis_worker import serve
def say(params):
    print(f"@{time.time():.6f}@", flush=True)
serve(rpc={"say": say})
"""
ECHO = "from trellis_worker import serve\nserve(rpc={'echo': lambda params: params})\n"
SAID = re.compile(rb"@([0-9.]+)@")
SUBSCRIBERS, LINES = 500, 60
APPS, STARTS = 20, 15
BACKLOG, SINGLES = 100_000, 20


@dataclass
class _Subscriber(asyncio.Protocol):
    """One event stream; notes how late each line is."""

    request: bytes
    late_ms: list[float] = field(default_factory=list)
    open: bool = False
    rest: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self.open = self.open or b"200" in data[:16]
        data = self.rest + data
        end = 0
        for found in SAID.finditer(data):
            self.late_ms.append((now - float(found[1])) * 1000)
            end = found.end()
        self.rest = data[end:][-40:]


def q6_logs(ours: stacks.Bench) -> None:
    """From a line printed by app code to each of many event streams."""
    ours.install("speaker", SPEAKER)
    path = "/api/v1/apps/speaker"
    method = b'{"method":"say"}'
    say = load.request(f"{path}/rpc", method, token=ours.token, port=ours.port)
    listen = load.request(f"{path}/logs", method="GET", token=ours.token, port=ours.port)
    p99 = _fan_out("ours", ours.port, listen, say, " (must 50)")
    with stacks.plain(ours.stack.env["REDIS_URL"]) as port:
        say = load.request("/say", b"{}", port=port)
        theirs = _fan_out("plain", port, load.request("/logs", method="GET", port=port), say)
    print(f"Q6 p99 ratio to plain {p99 / theirs:.2f}")


def _fan_out(name: str, port: int, listen: bytes, say: bytes, target: str = "") -> float:
    """Say lines to many streams; return the 99th percentile of their lateness."""

    async def run() -> list[_Subscriber]:
        loop = asyncio.get_running_loop()
        listeners = []
        for _ in range(SUBSCRIBERS):
            _, one = await loop.create_connection(lambda: _Subscriber(listen), "127.0.0.1", port)
            listeners.append(one)
        until = loop.time() + 60
        while not all(one.open for one in listeners) and loop.time() < until:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        for _ in range(LINES):
            await asyncio.to_thread(_post, say, port)
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        return listeners

    late = sorted(ms for one in asyncio.run(run()) for ms in one.late_ms) or [math.inf]
    p99 = late[int(len(late) * 0.99)]
    print(
        f"Q6 {name:5s} {SUBSCRIBERS} subscribers, {LINES} lines: p50 {statistics.median(late):.1f}"
        f" ms, p99 {p99:.1f} ms{target}, lost {SUBSCRIBERS * LINES - len(late)} (must 0)"
    )
    return p99


def _post(request: bytes, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        connection.recv(4096)


def q8_memory(ours: stacks.Bench) -> None:
    """Proportional share of memory of an idle app process."""
    for number in range(APPS):
        ours.install(f"idle{number}", ECHO)
        ours.admin.post(f"/apps/idle{number}/rpc", json={"method": "echo"}).raise_for_status()
    root = ours.stack.processes["worker"]
    sizes = []
    for process in root.children(recursive=True):
        folder = b"idle" in open(f"/proc/{process.pid}/cmdline", "rb").read()  # noqa: SIM115
        deepest = not process.children() and process.parent() != root
        if folder or deepest:
            sizes.append(process.memory_full_info().pss / 1e6)
    print(
        f"Q8 {len(sizes)} processes of {APPS} apps: PSS median {statistics.median(sizes):.1f} MB,"
        f" max {max(sizes):.1f} MB (must 15, aim 4)"
    )
    live_peers.memory(ours)


def q9_cold(ours: stacks.Bench) -> None:
    """From nothing running to the answer of an RPC: start of the process included."""
    ours.install("cold", ECHO)
    found = []
    for _ in range(STARTS):
        ours.admin.post("/apps/cold/worker/stop").raise_for_status()
        began = time.perf_counter()
        ours.admin.post("/apps/cold/worker/start").raise_for_status()
        ours.admin.post("/apps/cold/rpc", json={"method": "echo"}).raise_for_status()
        found.append((time.perf_counter() - began) * 1000)
    print(
        f"Q9 start and first RPC: median {statistics.median(found):.0f} ms, max {max(found):.0f} ms"
        " (must 150, aim 25)"
    )
    live_peers.cold(ours, STARTS)


def fairness(ours: stacks.Bench) -> None:
    """One job a second of an app, alone and beside an app with a long queue."""
    ours.install("single", CLOCK)
    ours.install("busy", NOTHING)
    alone = _singles(ours, 0)
    run_sql(
        ours,
        "INSERT INTO trellis.jobs_queue (app_id, source, payload, user_id)"
        f" SELECT 'busy', 'api', '{{}}', id FROM trellis.users, generate_series(1, {BACKLOG})"
        " WHERE email = 'bench@example.com'",
    )
    ours.admin.post("/apps/busy/jobs", json={}).raise_for_status()
    time.sleep(1)
    beside = _singles(ours, SINGLES)
    left = queued(ours)
    print(
        f"fair alone p50 {statistics.median(alone):.1f}, worst {max(alone):.1f} ms; beside {BACKLOG}"
        f" jobs p50 {statistics.median(beside):.1f}, worst {max(beside):.1f} ms; ratio of the worst"
        f" {max(beside) / max(alone):.2f} (must <= 2); {left} still queued at the end (must be > 0)"
    )


def _singles(ours: stacks.Bench, before: int) -> list[float]:
    """Return the milliseconds from the transaction that enqueues to the handler's first line."""
    for _ in range(SINGLES):
        ours.admin.post("/apps/single/jobs", json={}).raise_for_status()
        time.sleep(1)
    select = "FROM trellis.jobs_archive WHERE app_id = 'single'"
    wait_for(lambda: run_sql(ours, f"SELECT count(*) {select}")[0][0] == before + SINGLES, 30, 0.2)
    seen = ours.admin.post("/apps/single/rpc", json={"method": "seen"}).json()
    rows = run_sql(ours, f"SELECT msg_id, extract(epoch FROM enqueued_at) {select} ORDER BY 1")
    return [(seen[str(n)] - float(at)) * 1000 for n, at in rows[before:]]  # type: ignore[arg-type]


QUANTITIES = {"Q6": q6_logs, "Q8": q8_memory, "Q9": q9_cold, "fair": fairness}


def main(wanted: list[str]) -> None:
    """Measure the wanted quantities; all when none is named."""
    for name in wanted or QUANTITIES:
        with stacks.platform("web", "worker", "beat") as ours:
            QUANTITIES[name](ours)


if __name__ == "__main__":
    main(sys.argv[1:])
