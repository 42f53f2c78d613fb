"""Redis gone for half a minute under load: what is lost, and when the rate of before is back.

``python -m tests.bench outage``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import stacks
from tests.bench.jobs import NOTHING, run_sql, wait_for
from tests.bench.rounds import FULL, SHORT, Rounds

MUST_S = 10
FULL_RATE = 0.9


def main(rounds: Rounds = FULL) -> None:
    """Measure; print rates, the seconds until the rate was back, and what was lost or doubled."""
    gone_s = 12 if rounds == SHORT else 30
    with stacks.platform("web", "worker", "beat") as ours:
        ours.install("nothing", NOTHING)
        sent: list[int] = []
        with _load(ours, sent):
            time.sleep(2)
            before = _rate(ours, 4)
            ours.redis.kill()
            time.sleep(gone_s)
            accepted = len(sent)
            during = _archived(ours)
            ours.redis.start(empty=True)
            returned, back = time.perf_counter(), None
            while time.perf_counter() - returned < 3 * MUST_S and back is None:
                if _rate(ours, 1) >= FULL_RATE * before:
                    back = time.perf_counter() - returned
        wait_for(lambda: _archived(ours) >= len(sent), 120, 0.2)
        stored, distinct = run_sql(
            ours, "SELECT count(*), count(DISTINCT msg_id) FROM trellis.jobs_archive"
        )[0]
        (dead,) = run_sql(ours, "SELECT count(*) FROM trellis.jobs_dead")[0]
    print(
        f"outage Redis gone {gone_s} s: {before:.0f} jobs/s before; {accepted - during} accepted and"
        f" not yet done at its return; {FULL_RATE:.0%} of the rate back after"
        f" {f'{back:.1f}' if back else 'more than 30'} s (must {MUST_S});"
        f" accepted {len(sent)}, done {distinct}, settled twice {int(str(stored)) - int(str(distinct))},"
        f" dead {dead}"
    )


@contextmanager
def _load(ours: stacks.Bench, sent: list[int]) -> Iterator[None]:
    """Enqueue single jobs all the time; note the ids of those that were accepted."""
    ended = threading.Event()

    def enqueue() -> None:
        while not ended.wait(0.01):
            answer = ours.admin.post("/apps/nothing/jobs", json={"payload": {}})
            if answer.status_code == 201:
                sent.append(answer.json()["msg_id"])

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _rate(ours: stacks.Bench, seconds: float) -> float:
    before = _archived(ours)
    time.sleep(seconds)
    return (_archived(ours) - before) / seconds


def _archived(ours: stacks.Bench) -> int:
    return int(str(run_sql(ours, "SELECT count(*) FROM trellis.jobs_archive")[0][0]))
