"""Warm parents: Python with the platform loaded, which forks the platform's processes.

Loading is nearly all of a start, 2-3 s of CPU for each of web, worker and beat, and the tests start
some hundred of them. A forked process runs the same entry with the same arguments, environment and
output as a started one. That a fresh interpreter gets as far is shown by the tests of
``trellis up``, which starts everything itself.

Run as ``python -m tests.support.warm gunicorn|celery``; each line of stdin is an order in JSON, each line
of stdout the id of a process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

# By their own names: gevent replaces the modules', and its fork looks after the child.
from os import fork
from pathlib import Path
from signal import SIG_DFL, SIG_IGN, SIGCHLD, signal
from typing import IO, Any

import psutil

from workers_runtime.confine import die_with_parent

ROOT = Path(__file__).parents[2]
GUNICORN, CELERY = "gunicorn", "celery"
# What the processes would load with the first request that needs it.
LATER = [
    "app.auth.oidc.id_tokens",
    "app.core.pinned",
    "app.data.selects",
    "authlib.oauth2.auth",
    "jsonschema",
]
# What the processes load themselves, but for the modules that read the environment.
MODULES = {
    GUNICORN: [
        *LATER,
        "app.bootstrap",
        "app.factory",
        "gunicorn.app.wsgiapp",
        "gunicorn.workers.ggevent",
    ],
    CELERY: [
        *LATER,
        "celery.apps.beat",
        "celery.apps.worker",
        "celery.bin.celery",
        "celery.concurrency.thread",
        "tasks.assembly",
        "tasks.consumer",
        "tasks.scheduler",
        "tasks.sql_sessions",
    ],
}
ENTRIES = {GUNICORN: ("gunicorn.app.wsgiapp", "run"), CELERY: ("celery.__main__", "main")}


class WarmParents:
    """The warm parents of one test run, each started when it is first needed."""

    def __init__(self) -> None:
        self._parents = contextlib.ExitStack()
        self._parent = functools.cache(self._start)

    def launch(self, words: list[str], env: Mapping[str, str], log: Path) -> psutil.Process:
        """Fork a process.

        Args:
            words: its command line, which must be gunicorn's or celery's.
            env: its whole environment.
            log: file that its output is added to.
        """
        parent = self._parent(words[0])
        order = json.dumps({"words": words, "env": dict(env), "log": str(log)})
        parent.stdin.write(order.encode() + b"\n")
        parent.stdin.flush()
        return psutil.Process(int(parent.stdout.readline()))

    def close(self) -> None:
        """End the parents, and with them what they forked."""
        self._parents.close()

    def _start(self, program: str) -> Any:  # Any: Popen whose streams are there
        words = [sys.executable, "-m", "tests.support.warm", program]
        parent = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._parents.enter_context(parent)


@contextlib.contextmanager
def warm_parents() -> Iterator[WarmParents]:
    """Give warm parents until the end of the block."""
    parents = WarmParents()
    try:
        yield parents
    finally:
        parents.close()


# --- in the parent -----------------------------------------------------------------------


def _serve(orders: IO[bytes]) -> dict[str, Any] | None:  # Any: JSON values
    """Fork for each order; return it in the child, and None in the parent at the end."""
    parent = os.getpid()
    for line in orders:
        pid = fork()
        if pid == 0:
            die_with_parent(parent)
            return json.loads(line)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    return None


def _become(order: dict[str, Any]) -> None:  # Any: JSON values
    """Turn this child into what was ordered."""
    os.setsid()
    signal(SIGCHLD, SIG_DFL)
    for number, name in enumerate([os.devnull, order["log"], order["log"]]):
        file = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["words"]
    module, function = ENTRIES[sys.argv[0]]
    getattr(importlib.import_module(module), function)()


def main() -> None:
    """Load, then fork until stdin ends."""
    program = sys.argv[1]
    if program == GUNICORN:
        from gevent import monkey

        monkey.patch_all()
    for module in MODULES[program]:
        importlib.import_module(module)
    # Nobody waits for the children here; whoever ordered them watches them.
    signal(SIGCHLD, SIG_IGN)
    gc.freeze()
    order = _serve(sys.stdin.buffer)
    if order is not None:
        _become(order)


if __name__ == "__main__":
    main()
