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
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from config.runtime import RuntimeSettings
from workers_runtime.channel import PipeReader, PipeWriter
from workers_runtime.conversation import Conversation, ProcessListener
from workers_runtime.environments import Command
from workers_runtime.launch import Launched, Launcher
from workers_runtime.node_protocol import encode
from workers_runtime.protocol import AppSpec, FailureKind, WorkerFailure
from workers_runtime.sandbox import Identity

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
        self.reads: tuple[Path, ...] = ()
        self._folder = private_folder
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._error = ""
        self._early_exit: int | None = None

    # --- start -----------------------------------------------------------------------------

    async def start(
        self,
        command: Command,
        env: Mapping[str, str],
        identity: Identity | None,
        launcher: Launcher,
    ) -> None:
        """Start the process and send ``discover``.

        Args:
            command: what to run.
            env: its environment without the private folders.
            identity: user to run as.
            launcher: starts it.

        Raises:
            OSError: it could not be started.
            subprocess.SubprocessError: the sandbox could not be set up.
        """
        self.reads = command.reads
        private = {"HOME": str(self._folder / "home"), "TMPDIR": str(self._folder / "tmp")}
        try:
            launched = await launcher.launch(
                command, {**env, **private}, identity, self._folder, self._ended
            )
        except BaseException:
            self._remove_folder()
            raise
        self.started_at = time.time()
        self._attach(launched)
        self.pid = launched.pid
        self.greet()
        if self._early_exit is not None:
            self._loop.call_soon(self._ended, self._early_exit)

    def _attach(self, launched: Launched) -> None:
        limit = self._settings.max_line_bytes
        self._stdin = PipeWriter(launched.stdin, timeout_s=self._settings.write_timeout_s)
        self._stdout = PipeReader(
            launched.stdout,
            max_line_bytes=limit,
            on_lines=self.take_lines,
            on_discard=self._note_discarded,
            on_end=self._stdout_closed,
        )
        self._stderr_reader = PipeReader(
            launched.stderr,
            max_line_bytes=limit,
            on_lines=self._take_stderr,
            on_discard=self._note_discarded,
            on_end=lambda: None,
        )

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
        # Once it is reaped the number may be somebody else's, and 0 would be our own group.
        if self.pid and not self.exited.is_set():
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

    def _ended(self, code: int) -> None:
        """Clean up once after the process ended."""
        if not self.pid:
            self._early_exit = code
            return
        for reader in (self._stdout, self._stderr_reader):
            reader.resume()
            reader.drain()
            reader.close()
        self._stdin.close()
        self.exited.set()
        for timer in self._timers:
            timer.cancel()
        self._fail_calls()
        self._remove_folder()
        number = code if code >= 0 else 128 - code
        self._listener.on_exit(self, self._exit_error(number), f"worker crashed (exit {number})")

    def _remove_folder(self) -> None:
        self._loop.run_in_executor(None, shutil.rmtree, self._folder, True)

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
