"""``make bench``: every quantity in turn, or the named ones (``make bench ARGS="--short Q3 Q4"``).

What each line means is in docs/benchmarks.md.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial

from tests.bench import agents, cron_peers, data, install, jobs, live, outage, pgmq, rpc, start
from tests.bench.rounds import FULL, SHORT

ORACLES = {"pgmq": pgmq.main, "cron": cron_peers.compare, "outage": outage.main}


def main(arguments: list[str]) -> None:
    """Measure the wanted quantities; all when none is named. ``--short``: only see that it works."""
    rounds = SHORT if "--short" in arguments else FULL
    wanted = [name for name in arguments if name != "--short"]
    measures: dict[str, Callable[[], None]] = {
        **{name: partial(jobs.main, [name], rounds) for name in jobs.QUANTITIES},
        **{name: partial(live.main, [name]) for name in live.QUANTITIES},
        "Q4": partial(rpc.main, rounds),
        "Q5": partial(data.main, rounds),
        "A1": agents.main,
        "install": install.main,
        "start": partial(start.main, rounds),
        **{name: partial(run, rounds) for name, run in ORACLES.items()},
    }
    unknown = set(wanted) - set(measures)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(measures)}")
    for name in wanted or measures:
        measures[name]()


if __name__ == "__main__":
    # Told to stop, leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(sys.argv[1:])
