"""The warm parent: what forked apps share with it and with each other, and its death."""

from __future__ import annotations

import hashlib
import os
import sys
import time

import psutil
import pytest

from tests.integration.workers_runtime.conftest import Rig, gone
from workers_runtime.protocol import FailureKind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

APP = """
import hashlib, os, re, sys
from trellis_worker import serve
def scan(digest):
    # Asked for by its hash, or the search would find its own question.
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            begin, end, flags = re.match(r"(\\w+)-(\\w+) (\\S+)", line).groups()
            if flags[0] != "r" or "[v" in line:
                continue
            try:
                memory.seek(int(begin, 16))
                data = memory.read(int(end, 16) - int(begin, 16))
            except (OSError, OverflowError, MemoryError):
                continue
            for match in re.finditer(rb"s3cr3t-[0-9a-f]{24}", data):
                found += hashlib.sha256(match[0]).hexdigest() == digest
    return found
def who():
    return [os.getppid(), os.getuid(), sys.prefix, sys.flags.safe_path]
serve(rpc={"who": who, "scan": scan, "pid": os.getpid, "die": lambda: os._exit(2)})
"""


def zygote(rig: Rig) -> psutil.Process:
    assert rig.client.pid is not None
    children = psutil.Process(rig.client.pid).children()
    return next(child for child in children if any("zygote.py" in part for part in child.cmdline()))


def test_apps_without_dependencies_are_forked(rig: Rig) -> None:
    rig.start(APP)
    parent, uid, prefix, safe_path = rig.rpc("who")
    assert parent == zygote(rig).pid
    assert "environments/base-" in prefix
    assert safe_path is True
    assert uid != 0 or os.geteuid() != 0


def test_no_secret_of_one_app_is_in_the_memory_of_the_next(rig: Rig) -> None:
    secret = "s3cr3t-" + os.urandom(12).hex()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    rig.start(APP, "one", credentials={"TOKEN": secret})
    assert rig.rpc("scan", digest, app_id="one") > 0
    rig.start(APP, "two")
    assert rig.rpc("scan", digest, app_id="two") == 0


def test_exit_codes_are_reported(rig: Rig) -> None:
    rig.start(APP)
    assert rig.failure("die").kind is FailureKind.CRASHED
    rig.wait_log("worker crashed (exit 2)", "system")
    error = rig.client.ensure(rig.spec("import sys; sys.exit('no config')"), clear=True).exception(
        20
    )
    assert "exit code 1: no config" in str(error)


def test_its_death_is_a_crash_of_its_apps(rig: Rig) -> None:
    rig.start(APP)
    pid = rig.rpc("pid")
    old = zygote(rig)
    old.kill()
    assert gone(pid)
    assert rig.rpc("pid") != pid
    assert zygote(rig).pid != old.pid
    rig.wait_log("worker restarted", "system")


def test_many_apps_are_small_and_quick(rig: Rig) -> None:
    """Loose bounds: the machine may be busy."""
    for number in range(8):
        began = time.monotonic()
        rig.start(APP, f"app{number}")
        assert time.monotonic() - began < 10
    sizes = []
    for state in rig.client.status().result(5):
        memory = psutil.Process(state.pid).memory_full_info()
        sizes.append(memory.pss)
    assert sum(sizes) / len(sizes) < 15 * 1024 * 1024
