"""The runtime as a child process of the node, and the socket to it.

One thread starts the child, connects, reads until the end, and starts over. The child is started
from that thread because Linux ties a parent-death signal to the thread that forked, not to the
process: a child of a short-lived thread would be killed with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from workers_runtime.channel import LineSplitter
from workers_runtime.node_protocol import MAX_NODE_LINE_BYTES, Message, ProtocolError, decode
from workers_runtime.orphans import adopt_orphans, end_orphans

log = logging.getLogger(__name__)

# The first start copies the interpreter, which takes long on a busy machine.
CONNECT_TIMEOUT_S = 60.0
PROBE_INTERVAL_S = 5.0
SILENCE_LIMIT_S = 30.0
SEND_TIMEOUT_S = 10
RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
STABLE_AFTER_S = 30.0
SOCKET_PATH_LIMIT = 100


class RuntimeLink:
    """Child process and connection; calls back on its own thread."""

    def __init__(
        self,
        *,
        state_dir: Path,
        env: Mapping[str, str],
        on_message: Callable[[Message], None],
        on_idle: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._env = dict(env)
        self._on_message = on_message
        self._on_idle = on_idle
        self._on_down = on_down
        self._stopping = threading.Event()
        self._send_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the runtime, or None."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    def start(self) -> None:
        """Start the thread; again is a no-op."""
        if self._thread is None:
            adopt_orphans()
            self._thread = threading.Thread(target=self._run, name="runtime-link", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Close the connection, end the child and the thread; idempotent."""
        self._stopping.set()
        self._close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._kill()

    def send(self, line: bytes) -> bool:
        """Write one line; False if there is no connection or it broke."""
        with self._send_lock:
            if self._socket is None:
                return False
            try:
                self._socket.sendall(line)
            except OSError:
                # Part of a line may be out, so this connection cannot be used again; the link
                # thread sees its end and starts over.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
                return False
        return True

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._serve_one()
            except (OSError, ProtocolError, TimeoutError) as exc:
                if not self._stopping.is_set():
                    log.warning("runtime_link_failed", extra={"reason": str(exc)})
            failures = 0 if time.monotonic() - began > STABLE_AFTER_S else failures + 1
            if not self._stopping.is_set():
                log.warning("runtime_restarting", extra={"failures": failures})
            delay = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S)) - 1] if failures else 0
            self._stopping.wait(delay)

    def _serve_one(self) -> None:
        """Run one runtime from start to end."""
        folder = self._socket_folder()
        path = folder / "runtime.sock"
        try:
            self._child = self._spawn(path)
            connection = self._connect(path)
            with self._send_lock:
                self._socket = connection
            self._read(connection)
        finally:
            self._close()
            self._kill()
            self._on_down()
            # Nobody is left below to end what a killed runtime's apps had started.
            end_orphans(None, settle_s=0.1, limit_s=2.0)
            shutil.rmtree(folder, ignore_errors=True)

    def _socket_folder(self) -> Path:
        """Make a private folder whose socket path fits into a Unix address."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        short = len(os.fsencode(self._state_dir)) + 40 < SOCKET_PATH_LIMIT
        parent = self._state_dir if short else None
        return Path(tempfile.mkdtemp(prefix="control-", dir=parent))

    def _spawn(self, path: Path) -> subprocess.Popen[bytes]:
        env = {**self._env, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        arguments = ["--socket", str(path), "--state-dir", str(self._state_dir)]
        return subprocess.Popen(
            [sys.executable, "-m", "workers_runtime", *arguments, "--parent", str(os.getpid())],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _connect(self, path: Path) -> socket.socket:
        assert self._child is not None  # noqa: S101  # set by the only caller
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while time.monotonic() < deadline and not self._stopping.is_set():
            if self._child.poll() is not None:
                raise ConnectionError(f"the runtime ended with code {self._child.returncode}")
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                time.sleep(0.01)
                continue
            timeout = struct.pack("ll", SEND_TIMEOUT_S, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            return connection
        raise TimeoutError("the runtime did not open its socket")

    def _read(self, connection: socket.socket) -> None:
        splitter = LineSplitter(MAX_NODE_LINE_BYTES)
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        heard = time.monotonic()
        while not self._stopping.is_set():
            if not poller.poll(PROBE_INTERVAL_S * 1000):
                if time.monotonic() - heard > SILENCE_LIMIT_S:
                    raise TimeoutError("the runtime does not answer")
                self._on_idle()
                continue
            chunk = connection.recv(1 << 18)
            if not chunk:
                return
            heard = time.monotonic()
            for line in splitter.feed(chunk):
                self._handle(line)

    def _handle(self, line: bytes) -> None:
        try:
            message = decode(line)
        except ProtocolError as exc:
            log.warning("runtime_message_refused", extra={"reason": str(exc)})
            return
        try:
            self._on_message(message)
        except Exception:
            # A handler's fault must not end every call of the node.
            log.exception("runtime_handler_failed", extra={"message_type": message.TYPE})

    def _close(self) -> None:
        # Shutting down first wakes a thread that is blocked in recv or sendall.
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._send_lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _kill(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        # At the end of its connection the runtime kills its processes and exits by itself.
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.wait()
