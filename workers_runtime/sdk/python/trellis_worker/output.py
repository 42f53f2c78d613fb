"""Where an app's output goes: print, logging and stray writes never touch the protocol."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from trellis_worker.wire import Wire

MAX_CHARS = 8192


class LogStream(io.TextIOBase):
    """A text stream whose lines become log messages; lines of threads do not mix."""

    def __init__(self, wire: Wire, level: str) -> None:
        self._wire = wire
        self._level = level
        self._local = threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """Name of the encoding."""
        return "utf-8"

    @property
    def buffer(self) -> LogStream:
        """Accept bytes as well."""
        return self

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the stray-output descriptor, for child processes."""
        return 1

    def write(self, text: Any) -> int:  # Any: str, or bytes through `buffer`
        """Take text; every complete line becomes one message."""
        string = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        lines = (getattr(self._local, "rest", "") + string).split("\n")
        self._local.rest = lines.pop()
        self._emit(lines)
        if len(self._local.rest) > MAX_CHARS:
            self._emit([self._local.rest])
            self._local.rest = ""
        return len(text)

    def finish(self) -> None:
        """Send what has no line end yet."""
        rest = getattr(self._local, "rest", "")
        self._local.rest = ""
        self._emit([rest])

    def _emit(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line:
                message = {"type": "log", "level": self._level, "message": line[:MAX_CHARS]}
                self._wire.send(message)


class LogHandler(logging.Handler):
    """Sends records of the standard ``logging`` to the app's log."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            text = self.format(record)[:MAX_CHARS]
            self._wire.send({"type": "log", "level": _level(record.levelno), "message": text})
        except Exception:
            self.handleError(record)


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"


def claim_descriptors() -> tuple[int, int]:
    """Move the protocol to private descriptors.

    Afterwards descriptor 0 is empty and descriptor 1 is the raw error output, so neither a
    library writing to 1 nor a child process can corrupt or forge a message.

    Returns:
        Descriptors to read from and write to; children do not inherit them.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd


def redirect(wire: Wire) -> LogStream:
    """Send print and logging to the host; returns the stream that stands for stdout."""
    stream = LogStream(wire, "info")
    sys.stdout = stream
    sys.stdin = HostInput(wire)
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(LogHandler(wire))
    # The event loop's own chatter is not the author's.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return stream


class HostInput(io.TextIOBase):
    """Stands for stdin until somebody reads it: then the script speaks the protocol itself.

    Such a script (protocol 1) gets the real stdin and stdout, and the runner stays silent.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.taken = False

    def readable(self) -> bool:
        """Say yes."""
        return True

    @property
    def buffer(self) -> Any:  # Any: a binary reader
        """The real binary input."""
        return self._take().buffer

    def read(self, size: int | None = -1) -> str:
        """Read from the real input."""
        text: str = self._take().read(size)
        return text

    def readline(self, size: int = -1) -> str:  # type: ignore[override]  # positional-only there
        """Read a line from the real input."""
        text: str = self._take().readline(size)
        return text

    def __next__(self) -> str:  # type: ignore[override]  # typeshed says bytes
        line: str = next(self._take())
        return line

    def fileno(self) -> int:
        """Return the real input's descriptor."""
        return int(self._take().fileno())

    def _take(self) -> Any:  # Any: a text stream
        if not self.taken:
            self.taken = True
            self._real = open(self._wire.read_fd, encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stdin = self._real
            sys.stdout = open(  # noqa: SIM115
                self._wire.write_fd, "w", encoding="utf-8", buffering=1, closefd=False
            )
        return self._real
