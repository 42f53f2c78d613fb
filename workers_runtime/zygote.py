"""A warm parent: Python with the author SDK loaded, which forks app processes.

A forked process shares the parent's memory and needs no start-up: a tenth of the memory and a
twentieth of the time of a fresh interpreter. Run by path with the SDK on ``sys.path``:
``python -P zygote.py FD``, where FD is a Unix socket (SEQPACKET) to the runtime.

The runtime sends one packet per process, a JSON header with four descriptors: stdin, stdout,
stderr, and a file with the process's environment. The parent never reads that file, so no app's
secrets are in the memory that the next app inherits. Answers: ``{"id", "pid"}`` at the start,
``{"id", "code"}`` at the end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

HEADER_BYTES = 1 << 16
DESCRIPTORS = 4
REAP_INTERVAL_MS = 10_000


def load(name: str) -> ModuleType:
    """Load a module beside this file without putting its folder on ``sys.path``."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"_trellis_{name}", path)
    assert spec is not None  # noqa: S101  # a .py path always has a loader
    assert spec.loader is not None  # noqa: S101  # as above
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def preload() -> None:
    """Import what nearly every app needs, so that all share it."""
    import asyncio
    import datetime
    import uuid

    del asyncio, datetime, uuid


class Zygote:
    """The parent's loop: fork on demand, reap, report."""

    def __init__(self, control: socket.socket, confine: ModuleType, orphans: ModuleType) -> None:
        self._control = control
        self._confine = confine
        self._orphans = orphans
        self._poll = select.poll()
        self._children: dict[int, tuple[int, str, int | None]] = {}

    def serve(self) -> NoReturn:
        """Serve until the runtime is gone; the children die with this process."""
        self._send({"ready": True})
        self._poll.register(self._control, select.POLLIN)
        while True:
            ready = self._poll.poll(REAP_INTERVAL_MS)
            if not ready:
                self._orphans.reap_orphans(self._pids())
            for fd, _ in ready:
                if fd == self._control.fileno():
                    self._accept()
                else:
                    self._reap(fd)

    def _accept(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._control, HEADER_BYTES, DESCRIPTORS)
        if not data:
            os._exit(0)
        header = json.loads(data)
        pid = os.fork()
        if pid == 0:
            self._become_app(header, fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, header["id"], header["uid"])
        self._poll.register(pidfd, select.POLLIN)
        self._send({"id": header["id"], "pid": pid})

    def _reap(self, pidfd: int) -> None:
        pid, process_id, user = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        # What it left behind in its group goes with it; until it is reaped the number is its own.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._orphans.end_orphans(self._pids(), user=user)
        self._send({"id": process_id, "code": os.waitstatus_to_exitcode(status)})

    def _pids(self) -> set[int]:
        return {pid for pid, _, _ in self._children.values()}

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            os._exit(0)

    def _become_app(self, header: dict[str, Any], fds: list[int]) -> NoReturn:
        """Turn the forked child into the app process; never returns."""
        try:
            parent = os.getppid()
            os.setsid()
            with open(fds[3], "rb", closefd=False) as handle:
                environment = json.load(handle)
            for number in range(3):
                os.dup2(fds[number], number)
            os.closerange(3, 4096)
            if header["uid"] is not None:
                self._confine.become(header["uid"], header["gid"])
            os.umask(0o077)
            os.chdir(header["cwd"])
            self._confine.restrict(parent, header["terms"])
            os.environ.clear()  # noqa: TID251  # this process's environment begins here
            os.environ.update(environment)  # noqa: TID251
            _run(header["argv"])
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(126)


def _run(argv: list[str]) -> NoReturn:
    """Hand over to the SDK's runner as ``python -m trellis_worker.run`` would."""
    from trellis_worker.run import main

    sys.argv = argv
    # What was frozen stays so: a collection over it would copy every shared page.
    gc.enable()
    try:
        main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if not isinstance(exc.code, int | None):
            # As the interpreter does: the text is the reason.
            sys.stderr.write(f"{exc.code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """Prepare and serve."""
    confine, orphans = load("confine"), load("orphans")
    confine.die_with_parent(os.getppid())
    confine.give_up_new_rights()
    confine.hide()
    orphans.adopt_orphans()
    control = socket.socket(fileno=int(sys.argv[1]))
    preload()
    gc.collect()
    gc.disable()
    # Collections in a child would otherwise copy every page that holds an object's header.
    gc.freeze()
    Zygote(control, confine, orphans).serve()


if __name__ == "__main__":
    main()
