"""``make bench``: every quantity in turn, or the named ones (``make bench ARGS="Q3 Q4"``)."""

from __future__ import annotations

import sys

from tests.bench import agents, data, install, jobs, rpc


def main(wanted: list[str]) -> None:
    """Measure the wanted quantities; all when none is named."""
    known = [*jobs.QUANTITIES, "Q4", "Q5", "A1", "install"]
    unknown = set(wanted) - set(known)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = wanted or known
    jobs_wanted = [name for name in chosen if name in jobs.QUANTITIES]
    if jobs_wanted:
        jobs.main(jobs_wanted)
    if "Q4" in chosen:
        rpc.main()
    if "Q5" in chosen:
        data.main()
    if "A1" in chosen:
        agents.main()
    if "install" in chosen:
        install.main()


if __name__ == "__main__":
    main(sys.argv[1:])
