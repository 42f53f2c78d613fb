"""Password hashing: parameters, bounds, behaviour under gevent."""

import subprocess
import sys
import threading
import time

from app.auth.passwords import DUMMY_HASH, PasswordHasher

PARAMETERS = "$argon2id$v=19$m=19456,t=2,p=1$"


def test_the_parameters_are_those_of_the_contract():
    hasher = PasswordHasher(1)
    stored = hasher.hash("Str0ngPass!x")
    assert stored.startswith(PARAMETERS)
    assert DUMMY_HASH.startswith(PARAMETERS)
    assert hasher.verify(stored, "Str0ngPass!x")
    assert not hasher.verify(stored, "Str0ngPass!y")
    assert not hasher.is_outdated(stored)
    assert stored != hasher.hash("Str0ngPass!x")


def test_nothing_fits_what_is_no_hash():
    hasher = PasswordHasher(1)
    assert not hasher.verify(None, "")
    assert not hasher.verify("", "")
    assert not hasher.verify("plain", "plain")
    assert not hasher.verify(hasher.hash("x" * 1024), "x" * 1025)


def test_an_unknown_account_takes_as_long_as_a_wrong_password():
    hasher = PasswordHasher(1)
    stored = hasher.hash("Str0ngPass!x")

    def fastest(function):
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
        return min(times)

    wrong = fastest(lambda: hasher.verify(stored, "wrong"))
    unknown = fastest(lambda: hasher.verify(None, "wrong"))
    assert 0.4 < unknown / wrong < 2.5


def test_no_more_than_the_allowed_number_run_at_a_time():
    hasher = PasswordHasher(2)
    running, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    threads = [threading.Thread(target=hasher._work, args=(work,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, time
from app.auth.passwords import PasswordHasher
hasher = PasswordHasher(2)
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)
gevent.joinall([gevent.spawn(hasher.hash, "Str0ngPass!x") for _ in range(6)])
longest = max(b - a for a, b in zip(ticks, ticks[1:]))
assert hasher.verify(hasher.hash("a"), "a") and not hasher.verify(None, "a")
print(len(ticks), longest)
"""


def test_other_greenlets_go_on_while_a_password_is_hashed():
    done = subprocess.run(
        [sys.executable, "-c", GEVENT], capture_output=True, text=True, check=True, timeout=60
    )
    ticks, longest = done.stdout.split()
    # Six hashes of at least 15 ms each, two at a time: a blocked loop would tick six times.
    assert int(ticks) > 15, done.stdout
    assert float(longest) < 1
