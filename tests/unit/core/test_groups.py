import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.core.groups import MOST, Group


class Work:
    """Returns the entries doubled; holds each batch until it is let go."""

    def __init__(self):
        self.batches = []
        self.started = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, entries):
        self.batches.append(list(entries))
        self.started.release()
        assert self.go_on.acquire(timeout=20)
        if "bad" in entries:
            raise ValueError("bad batch")
        return [entry * 2 for entry in entries]


def wait_for_waiting(group, count):
    for _ in range(20_000):
        if len(group._waiting) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError(len(group._waiting))


def test_entries_of_one_moment_go_together_and_each_gets_its_own_result():
    work = Work()
    group = Group(work)
    count = MOST + 11
    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(group.do, 0)
        assert work.started.acquire(timeout=20)
        others = [pool.submit(group.do, n) for n in range(1, count)]
        wait_for_waiting(group, count - 1)
        for _ in range(3):
            work.go_on.release()
        assert [f.result(20) for f in [first, *others]] == [n * 2 for n in range(count)]
    assert [len(batch) for batch in work.batches] == [1, MOST, 10]


def test_an_error_hits_its_batch_and_no_other():
    work = Work()
    group = Group(work)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.do, "a")
        assert work.started.acquire(timeout=20)
        others = [pool.submit(group.do, entry) for entry in ("b", "bad")]
        wait_for_waiting(group, 2)
        for _ in range(3):
            work.go_on.release()
        assert first.result(20) == "aa"
        for other in others:
            with pytest.raises(ValueError, match="bad batch"):
                other.result(20)
        assert group.do("c") == "cc"
