"""Q4: RPC echo over HTTP against plain Flask and Celery. ``python -m tests.bench.rpc``."""

from __future__ import annotations

import statistics
import sys

from tests.bench import load, stacks

ECHO = "from trellis_worker import serve\nserve(rpc={'echo': lambda params: params})\n"
CLIENTS = (1, 16, 64)
TARGETS = {1: (0.75, 0.4), 16: (2.5, 6.0), 64: (5.0, 10.0)}


def main(seconds: float = 3.0, rounds: int = 7, warm_ups: int = 3) -> None:
    """Measure both in turns and print min / median / max, ratios and errors."""
    with stacks.platform("web", "worker") as ours:
        ours.install("bench", ECHO)
        body = b'{"method":"echo","params":{"n":1}}'
        path = "/api/v1/apps/bench/rpc"
        with stacks.plain(ours.stack.env["REDIS_URL"]) as plain_port:
            sides = {
                "ours": (load.request(path, body, token=ours.token, port=ours.port), ours.port),
                "plain": (load.request("/rpc", body, port=plain_port), plain_port),
            }
            for clients in CLIENTS:
                _compare(sides, clients, seconds, rounds, warm_ups)


def _compare(
    sides: dict[str, tuple[bytes, int]], clients: int, seconds: float, rounds: int, warm_ups: int
) -> None:
    found: dict[str, list[load.Load]] = {name: [] for name in sides}
    for number in range(warm_ups + rounds):
        for name, (data, port) in sides.items():
            length = seconds if number >= warm_ups else 1.0
            one = load.run(data, b'{"n":1}', port=port, clients=clients, seconds=length)
            if number >= warm_ups:
                found[name].append(one)
    rates, p50s = {}, {}
    for name, loads in found.items():
        rate = [one.per_second for one in loads]
        rates[name] = statistics.median(rate)
        p50s[name] = statistics.median(one.p50 for one in loads)
        p99 = statistics.median(one.percentile(0.99) for one in loads)
        failed = sum(one.failed for one in loads)
        print(
            f"Q4 {clients:3d} clients {name:5s} {min(rate):7.0f} /{rates[name]:7.0f} /{max(rate):7.0f} per s"
            f"   p50 {p50s[name]:6.2f} ms  p99 {p99:7.2f} ms  failed {failed}"
        )
    must, aim = TARGETS[clients]
    if clients == 1:
        ratio = p50s["ours"] / p50s["plain"]
        print(f"Q4   1 client  p50 ratio {ratio:.2f}  (must <= {must}, aim {aim})")
    else:
        ratio = rates["ours"] / rates["plain"]
        print(f"Q4 {clients:3d} clients rate ratio {ratio:.2f}  (must >= {must}, aim {aim})")


if __name__ == "__main__":
    main(*(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else ())
