"""Starting app processes: from the warm parent where that is possible, else as a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from workers_runtime.confine import Terms
from workers_runtime.environments import Command
from workers_runtime.orphans import end_orphans
from workers_runtime.sandbox import Identity, Reach, Sandbox

log = logging.getLogger(__name__)

ZYGOTE = Path(__file__).with_name("zygote.py")
START_TIMEOUT_S = 10.0
KILLED = -signal.SIGKILL

OnExit = Callable[[int], None]
"""Gets the exit code once, negative for a signal, after the process group was killed."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A started process and our ends of its pipes."""

    pid: int
    stdin: int
    stdout: int
    stderr: int


class LaunchError(Exception):
    """The warm parent could not fork a process."""


class Launcher:
    """Starts processes and tells when they end."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._zygote: Zygote | None = None

    def warm_up(self, python: Path, env: Mapping[str, str]) -> None:
        """Start the warm parent, to fork apps that run this interpreter (Linux only)."""
        if self._zygote is None and hasattr(os, "pidfd_open") and sys.platform == "linux":
            self._zygote = Zygote(python, env, self._sandbox.started)
            self._zygote.start()

    def close(self) -> None:
        """Kill the warm parent, and with it its children."""
        if self._zygote is not None:
            self._zygote.close()

    async def launch(
        self,
        command: Command,
        env: Mapping[str, str],
        identity: Identity | None,
        folder: Path,
        on_exit: OnExit,
    ) -> Launched:
        """Start a process inside the sandbox.

        Args:
            command: what to run.
            env: its whole environment.
            identity: user to run as; None = ours.
            folder: the only folder it may write to.
            on_exit: called on the event loop when it has ended.

        Raises:
            OSError: it could not be started.
            subprocess.SubprocessError: the sandbox could not be set up.
        """
        reach = Reach(command.reads, (folder,))
        if self._zygote is not None and command.forkable:
            terms = self._sandbox.terms(identity, reach)
            try:
                return await self._zygote.fork(command, env, identity, terms, on_exit)
            except LaunchError as exc:
                # It costs memory and time, but no app, to do without a warm parent.
                log.warning("zygote_failed", extra={"reason": str(exc)})
        options = self._sandbox.spawn_options(identity, reach)
        return self._run(command, env, options, on_exit)

    def _run(
        self,
        command: Command,
        env: Mapping[str, str],
        options: dict[str, Any],  # Any: Popen's keywords
        on_exit: OnExit,
    ) -> Launched:
        child = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **options,
        )
        self._sandbox.started.add(child.pid)

        def ended(code: int) -> None:
            self._sandbox.started.discard(child.pid)
            end_orphans(self._sandbox.started, user=options.get("user"))
            on_exit(code)

        _watch(child, ended)
        stdin, stdout, stderr = (_detach(f) for f in (child.stdin, child.stdout, child.stderr))
        return Launched(child.pid, stdin, stdout, stderr)


class Zygote:
    """The runtime's side of the warm parent; starts it anew when it died."""

    def __init__(self, python: Path, env: Mapping[str, str], started: set[int]) -> None:
        """Prepare; ``started`` is ``Sandbox.started``."""
        self._python = python
        self._started = started
        self._child: subprocess.Popen[bytes] | None = None
        self._env = dict(env)
        self._loop = asyncio.get_running_loop()
        self._numbers = 0
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._exits: dict[str, OnExit] = {}
        self._pids: dict[str, int] = {}

    def start(self) -> None:
        """Start the parent process unless it runs."""
        if self._control is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ready = self._loop.create_future()
        # It keeps our user, because it changes to the user of each app; it runs no app code.
        child = subprocess.Popen(
            [str(self._python), "-P", str(ZYGOTE), str(theirs.fileno())],
            env=self._env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._control = ours
        self._loop.add_reader(ours, self._take)
        self._child = child
        self._started.add(child.pid)
        _watch(child, partial(self._ended, child.pid))

    def close(self) -> None:
        """Kill the parent process."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()

    def _ended(self, pid: int, code: int) -> None:
        log.info("zygote_ended", extra={"code": code})
        self._started.discard(pid)
        end_orphans(self._started)

    async def fork(
        self,
        command: Command,
        env: Mapping[str, str],
        identity: Identity | None,
        terms: Terms,
        on_exit: OnExit,
    ) -> Launched:
        """Fork one app process; see ``Launcher.launch``.

        Raises:
            LaunchError: the parent does not start or died.
        """
        self.start()
        await self._wait_ready()
        self._numbers += 1
        number = str(self._numbers)
        header = _header(number, command, identity, terms)
        future = self._starting[number] = self._loop.create_future()
        self._exits[number] = on_exit
        ours, theirs = _pipes()
        try:
            with _file_of(env) as file:
                self._send(header, [*theirs, file.fileno()])
            async with asyncio.timeout(START_TIMEOUT_S):
                pid = await future
        except BaseException as exc:
            self._abandon(number, future)
            for fd in ours:
                os.close(fd)
            if isinstance(exc, TimeoutError):
                raise LaunchError("it does not answer") from None
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return Launched(pid, *ours)

    def _abandon(self, number: str, future: asyncio.Future[int]) -> None:
        """End a process whose start nobody waits for any more."""
        if number in self._exits:
            self._exits[number] = lambda _code: None
        if future.done() and not future.cancelled() and future.exception() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(future.result(), signal.SIGKILL)
        else:
            future.cancel()

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise LaunchError("it did not start in time") from None

    def _send(self, header: dict[str, Any], fds: list[int]) -> None:
        assert self._control is not None  # noqa: S101  # it was started
        try:
            socket.send_fds(self._control, [json.dumps(header).encode()], fds)
        except OSError as exc:
            raise LaunchError(f"it does not answer: {exc.strerror}") from None

    def _take(self) -> None:
        assert self._control is not None  # noqa: S101  # the reader was added for it
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._died()
            return
        message = json.loads(data)
        if "ready" in message:
            self._ready.set_result(None)
        elif "pid" in message:
            self._forked(message["id"], message["pid"])
        else:
            self._pids.pop(message["id"], None)
            on_exit = self._exits.pop(message["id"], None)
            if on_exit is not None:
                on_exit(message["code"])

    def _forked(self, number: str, pid: int) -> None:
        future = self._starting.pop(number, None)
        if future is None or future.done():
            # Nobody waits for it any more.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            self._pids[number] = pid
            future.set_result(pid)

    def _died(self) -> None:
        """Report the end of every process: they die with their parent."""
        assert self._control is not None  # noqa: S101  # it was open until now
        self._loop.remove_reader(self._control)
        self._control.close()
        self._control = None
        # Any: one future has no result, the others have a process id.
        starting: list[asyncio.Future[Any]] = [self._ready, *self._starting.values()]
        self._starting = {}
        for pid in self._pids.values():
            # The kernel kills the processes themselves, but not what they started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._pids.clear()
        exits, self._exits = self._exits, {}
        for future in starting:
            if not future.done():
                future.set_exception(LaunchError("it died"))
                # Nobody may be waiting; that is no error of its own.
                future.exception()
        for on_exit in exits.values():
            on_exit(KILLED)


def _header(
    number: str, command: Command, identity: Identity | None, terms: Terms
) -> dict[str, Any]:
    """Return what the warm parent itself may know of a process: nothing secret."""
    return {
        "id": number,
        "argv": command.argv[-2:],
        "cwd": str(command.cwd),
        "uid": identity.uid if identity is not None else None,
        "gid": identity.gid if identity is not None else None,
        "terms": terms,
    }


def _watch(child: subprocess.Popen[bytes], on_exit: OnExit) -> None:
    """Call back on the event loop when a child of ours has ended and is reaped."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        # What it left behind in its group goes with it. Before the reaping: until then the
        # number cannot belong to anybody else.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        on_exit(child.wait())

    if hasattr(os, "pidfd_open"):
        pidfd = os.pidfd_open(child.pid)

        def ready() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            ended()

        loop.add_reader(pidfd, ready)
        return
    waiting = loop.run_in_executor(None, child.wait)
    waiting.add_done_callback(lambda _: ended())


def _detach(stream: IO[bytes] | None) -> int:
    """Take a descriptor away from its file object, which would close it a second time."""
    assert stream is not None  # noqa: S101  # a pipe was asked for
    fd = os.dup(stream.fileno())
    stream.close()
    return fd


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return our and the process's ends of stdin, stdout and stderr."""
    (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = (
        os.pipe() for _ in range(3)
    )
    return (ours_in, ours_out, ours_err), (theirs_in, theirs_out, theirs_err)


def _file_of(env: Mapping[str, str]) -> IO[bytes]:
    """Return an unnamed file holding an environment, at its beginning."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = open(os.memfd_create("environment"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(json.dumps(dict(env)).encode())
    file.flush()
    file.seek(0)
    return file
