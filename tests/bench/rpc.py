"""Q4: RPC echo over HTTP against plain Flask and Celery, and BullMQ without HTTP.

``python -m tests.bench Q4``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack

from tests.bench import job_peers, load, stacks
from tests.bench.job_peers import Peer
from tests.bench.rounds import FULL, Rounds
from tests.bench.scratch import Missing

ECHO = "from trellis_worker import serve\nserve(rpc={'echo': lambda params: params})\n"
CLIENTS = (1, 16, 64)
TARGETS = {1: (0.75, 0.4), 16: (2.5, 6.0), 64: (5.0, 10.0)}
# Calls from several clients for some seconds.
Side = Callable[[int, float], load.Load]


def main(rounds: Rounds = FULL) -> None:
    """Measure all in turns and print min / median / max, ratios and errors."""
    with ExitStack() as stack:
        ours = stack.enter_context(stacks.platform("web", "worker"))
        ours.install("bench", ECHO)
        body = b'{"method":"echo","params":{"n":1}}'
        plain_port = stack.enter_context(stacks.plain(ours.stack.env["REDIS_URL"]))
        path = "/api/v1/apps/bench/rpc"
        sides = {
            "ours": _http(load.request(path, body, token=ours.token, port=ours.port), ours.port),
            "plain": _http(load.request("/rpc", body, port=plain_port), plain_port),
        }
        try:
            peer = job_peers.ready(ours, "bullmq", stack)
            stack.enter_context(peer.working())
            sides["bullmq"] = _queue(peer)
        except Missing as exc:
            print(f"Q4 without bullmq: {exc}")
        for clients in CLIENTS:
            _compare(sides, clients, rounds)


def _http(data: bytes, port: int) -> Side:
    return lambda clients, seconds: load.run(
        data, b'{"n":1}', port=port, clients=clients, seconds=seconds
    )


def _queue(peer: Peer) -> Side:
    """Add a job and wait for its answer, from one process and without HTTP."""

    def run(clients: int, seconds: float) -> load.Load:
        found = peer.ask("rpc", clients, seconds)
        return load.Load(found["rate"], sorted(found["latencies"]), found["failed"])

    return run


def _compare(sides: dict[str, Side], clients: int, rounds: Rounds) -> None:
    found: dict[str, list[load.Load]] = {name: [] for name in sides}
    for number in range(rounds.total):
        for name, run in sides.items():
            one = run(clients, rounds.seconds if number >= rounds.warm_ups else 1.0)
            if number >= rounds.warm_ups:
                found[name].append(one)
    rates, p50s = {}, {}
    for name, loads in found.items():
        rate = [one.per_second for one in loads]
        rates[name] = statistics.median(rate)
        p50s[name] = statistics.median(one.p50 for one in loads)
        p99 = statistics.median(one.percentile(0.99) for one in loads)
        failed = sum(one.failed for one in loads)
        print(
            f"Q4 {clients:3d} clients {name:6s} {min(rate):7.0f} /{rates[name]:7.0f} /{max(rate):7.0f}"
            f" per s   p50 {p50s[name]:6.2f} ms  p99 {p99:7.2f} ms  failed {failed}"
        )
    must, aim = TARGETS[clients]
    for name in [name for name in sides if name != "ours"]:
        target = f"  (must {'<=' if clients == 1 else '>='} {must}, aim {aim})"
        ratio = p50s["ours"] / p50s[name] if clients == 1 else rates["ours"] / rates[name]
        what = "p50" if clients == 1 else "rate"
        print(
            f"Q4 {clients:3d} clients {what} ratio to {name} {ratio:.2f}"
            f"{target if name == 'plain' else ''}"
        )


if __name__ == "__main__":
    main()
