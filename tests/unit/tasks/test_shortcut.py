"""Work is done on the spot until it takes long, and again once it is quick."""

import time

import pytest

from tasks.shortcut import QUICK_S, Shortcut


def _slow() -> None:
    time.sleep(2 * QUICK_S)


def test_slow_work_closes_it_and_quick_work_opens_it_again() -> None:
    shortcut = Shortcut()
    assert shortcut.open
    shortcut.measure(_slow)
    assert not shortcut.open
    shortcut.measure(lambda: None)
    assert shortcut.open


def test_work_that_fails_slowly_closes_it() -> None:
    def fail() -> None:
        _slow()
        raise ConnectionRefusedError

    shortcut = Shortcut()
    with pytest.raises(ConnectionRefusedError):
        shortcut.measure(fail)
    assert not shortcut.open
