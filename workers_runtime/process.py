"""One app process: its pipes, its start and its end.

Source: contract part 30, 3.3, 3.4, 4.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from config.runtime import RuntimeSettings
from workers_runtime.channel import PipeReader, PipeWriter
from workers_runtime.conversation import Conversation, ProcessListener
from workers_runtime.environments import Command
from workers_runtime.node_protocol import encode
from workers_runtime.protocol import AppSpec, FailureKind, WorkerFailure

log = logging.getLogger(__name__)

STDERR_LINES = 20
CLOSED_STDOUT_GRACE_S = 0.5


class AppProcess(Conversation):
    """A running process of one deployment."""

    def __init__(
        self,
        spec: AppSpec,
        settings: RuntimeSettings,
        listener: ProcessListener,
        private_folder: Path,
    ) -> None:
        super().__init__(spec, settings, listener)
        self.started_at = 0.0
        self.stopping = False
        self.exited = asyncio.Event()
        self._folder = private_folder
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._child: subprocess.Popen[bytes] | None = None
        self._error = ""

    # --- start -----------------------------------------------------------------------------

    def start(self, command: Command, options: dict[str, Any]) -> None:
        """Start the process and send ``discover``.

        Args:
            command: what to run.
            options: Popen keywords of the sandbox.

        Raises:
            OSError: it could not be started.
            subprocess.SubprocessError: the sandbox could not be set up.
        """
        env = {
            **command.env,
            "HOME": str(self._folder / "home"),
            "TMPDIR": str(self._folder / "tmp"),
        }
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
        self._child = child
        self.pid = child.pid
        self.started_at = time.time()
        self._attach(child)
        self._watch_exit(child.pid)
        self.greet()

    def _attach(self, child: subprocess.Popen[bytes]) -> None:
        # The file objects would close the descriptors a second time.
        stdin, stdout, stderr = (_detach(f) for f in (child.stdin, child.stdout, child.stderr))
        limit = self._settings.max_line_bytes
        self._stdin = PipeWriter(stdin, timeout_s=self._settings.write_timeout_s)
        self._stdout = PipeReader(
            stdout,
            max_line_bytes=limit,
            on_lines=self.take_lines,
            on_discard=self._note_discarded,
            on_end=self._stdout_closed,
        )
        self._stderr_reader = PipeReader(
            stderr,
            max_line_bytes=limit,
            on_lines=self._take_stderr,
            on_discard=self._note_discarded,
            on_end=lambda: None,
        )

    def _watch_exit(self, pid: int) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd: int | None = os.pidfd_open(pid)
            self._loop.add_reader(self._pidfd, self._ended)
            return
        self._pidfd = None
        assert self._child is not None  # noqa: S101  # set by the only caller
        waiting = self._loop.run_in_executor(None, self._child.wait)
        waiting.add_done_callback(lambda _: self._ended())

    def _take_stderr(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.strip():
                self._stderr.append(text)
                self._listener.on_log(self, "stderr", text)

    def _note_discarded(self, count: int) -> None:
        for _ in range(count):
            text = f"a line over {self._settings.max_line_bytes} bytes was discarded"
            self._listener.on_log(self, "system", text)

    # --- end -------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Stop the process: ``shutdown``, grace, SIGTERM, 2 s, SIGKILL. Idempotent."""
        if not self.stopping:
            self.stopping = True
            self._stdin.write(encode({"type": "shutdown"}), lambda: None)
        for signum, wait_s in (
            (None, self._settings.stop_grace_s),
            (signal.SIGTERM, self._settings.term_grace_s),
            (signal.SIGKILL, 10.0),
        ):
            if signum is not None:
                self.signal_group(signum)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.exited.wait()
                    return
        log.error("app_process_survived_kill", extra={"pid": self.pid})

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)

    def pause(self) -> None:
        """Stop taking messages while the node is slow."""
        self._stdout.pause()

    def resume(self) -> None:
        """Take messages again."""
        if not self.saturated:
            self._stdout.resume()

    def write(self, line: bytes, on_timeout: Callable[[], None]) -> None:
        """Send a line on stdin."""
        self._stdin.write(line, on_timeout)

    def _stdout_closed(self) -> None:
        if not self.exited.is_set():
            self._later(CLOSED_STDOUT_GRACE_S, self._kill_mute)

    def _kill_mute(self) -> None:
        if not self.exited.is_set() and not self.stopping:
            self._error = "closed stdout"
            self.signal_group(signal.SIGKILL)

    def _ended(self) -> None:
        """Clean up once after the process ended."""
        assert self._child is not None  # noqa: S101  # there was a process to end
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        # What it left behind in its group goes with it. Before the reaping: until then the
        # number cannot belong to anybody else.
        self.signal_group(signal.SIGKILL)
        code = self._child.wait()
        for reader in (self._stdout, self._stderr_reader):
            reader.resume()
            reader.drain()
            reader.close()
        self._stdin.close()
        self.exited.set()
        for timer in self._timers:
            timer.cancel()
        self._fail_calls()
        self._loop.run_in_executor(None, shutil.rmtree, self._folder, True)
        number = code if code >= 0 else 128 - code
        self._listener.on_exit(self, self._exit_error(number), f"worker crashed (exit {number})")

    def _fail_calls(self) -> None:
        failure = WorkerFailure(FailureKind.CRASHED, "worker crashed")
        if self.stopping:
            failure = WorkerFailure(FailureKind.STOPPED, "worker stopped")
        self._end_start()
        for token in self._calls.tokens():
            self.close(token, failure)

    def _exit_error(self, number: int) -> str:
        text = self._error or f"exit code {number}"
        lines = "\n".join(self._stderr)
        return f"{text}: {lines}" if lines else text


def _detach(stream: IO[bytes] | None) -> int:
    """Take a descriptor away from its file object."""
    assert stream is not None  # noqa: S101  # a pipe was asked for
    fd = os.dup(stream.fileno())
    stream.close()
    return fd
