"""JSON lines over pipes: splitting with a length cap, bounded reading and writing.

Source: contract part 30, 4.1.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

READ_BYTES = 1 << 16
MAX_QUEUED_BYTES = 64 * 1024 * 1024
# The kernel takes no more than 1,024 at once.
MAX_PIECES = 256


class LineSplitter:
    """Cut a byte stream into lines of bounded length.

    A line over the cap is discarded up to its LF and counted in ``discarded``.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False
        self.discarded = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines they complete, without LF and CR."""
        pieces = chunk.split(b"\n")
        lines: list[bytes] = []
        for piece in pieces[:-1]:
            self._add(piece)
            self._end(lines)
        if pieces[-1]:
            self._add(pieces[-1])
        return lines

    def rest(self) -> bytes:
        """Return and forget the unfinished line at the end of a stream."""
        lines: list[bytes] = []
        self._end(lines)
        return lines[0] if lines else b""

    def _add(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._size += len(piece)
        if self._size > self._max:
            self._skipping = True
            self._parts.clear()
            return
        self._parts.append(piece)

    def _end(self, lines: list[bytes]) -> None:
        if self._skipping:
            self.discarded += 1
        else:
            line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            lines.append(line.removesuffix(b"\r"))
        self._parts = []
        self._size = 0
        self._skipping = False


class PipeReader:
    """Read lines from a non-blocking pipe on the event loop.

    Args:
        fd: read end; closed at the end of the stream or by ``close``.
        on_lines: gets each batch of complete lines.
        on_discard: gets the number of over-long lines dropped.
        on_end: called once when the stream ends.
    """

    def __init__(
        self,
        fd: int,
        *,
        max_line_bytes: int,
        on_lines: Callable[[list[bytes]], None],
        on_discard: Callable[[int], None],
        on_end: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._splitter = LineSplitter(max_line_bytes)
        self._on_lines = on_lines
        self._on_discard = on_discard
        self._on_end = on_end
        self._open = True
        self._paused = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._ready)

    def pause(self) -> None:
        """Stop reading: the process blocks once its pipe is full."""
        if self._open and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if self._open and self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._ready)

    def drain(self) -> None:
        """Read what is there now, after the process ended, at most 16 MiB."""
        for _ in range(256):
            if not self._open or not self._ready():
                return

    def close(self) -> None:
        """Stop reading and close the pipe; idempotent, without ``on_end``."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _ready(self) -> bool:
        """Read one chunk, so that one flood does not starve other processes."""
        try:
            chunk = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._finish()
            return False
        self._emit(self._splitter.feed(chunk))
        return True

    def _emit(self, lines: list[bytes]) -> None:
        if self._splitter.discarded:
            count, self._splitter.discarded = self._splitter.discarded, 0
            self._on_discard(count)
        if lines:
            self._on_lines(lines)

    def _finish(self) -> None:
        rest = self._splitter.rest()
        self._emit([rest] if rest else [])
        self.close()
        self._on_end()


@dataclass(slots=True)
class _Outgoing:
    """A line waiting for room in the pipe."""

    data: memoryview
    on_timeout: Callable[[], None]
    timer: asyncio.TimerHandle | None = None
    begun: bool = False


class PipeWriter:
    """Write lines to a non-blocking pipe; a line that is not out in time fails.

    A line that was begun must be finished to keep the stream whole; one that was not is dropped.
    The first line of a turn of the event loop leaves at once and the others together at its end,
    for each write wakes the reader.
    """

    def __init__(self, fd: int, *, timeout_s: float) -> None:
        self._fd = fd
        self._timeout_s = timeout_s
        self._queue: deque[_Outgoing] = deque()
        self._queued_bytes = 0
        self._open = True
        self._waiting = False
        self._holding = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)

    def write(self, line: bytes, on_timeout: Callable[[], None]) -> None:
        """Send one line.

        Args:
            line: LF included.
            on_timeout: called once if the line was not written within the timeout, or at once
                if too much is queued or the pipe is closed.
        """
        if not self._open or self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
            self._loop.call_soon(on_timeout)
            return
        self._queue.append(_Outgoing(memoryview(line), on_timeout))
        self._queued_bytes += len(line)
        if not self._holding:
            self._holding = True
            self._loop.call_soon(self._release)
            self._send()

    def close(self) -> None:
        """Close the pipe and forget what is queued; idempotent."""
        if not self._open:
            return
        self._open = False
        self._watch(False)
        for item in self._queue:
            if item.timer is not None:
                item.timer.cancel()
        self._queue.clear()
        os.close(self._fd)

    def _release(self) -> None:
        self._holding = False
        self._send()

    def _send(self) -> None:
        """Write what can be written; what is left has to leave in time."""
        if not self._waiting:
            self._flush()
        for item in reversed(self._queue):
            if item.timer is not None:
                return
            item.timer = self._loop.call_later(self._timeout_s, self._expire, item)

    def _expire(self, item: _Outgoing) -> None:
        if not item.begun and item in self._queue:
            self._queue.remove(item)
            self._queued_bytes -= len(item.data)
        item.on_timeout()

    def _flush(self) -> None:
        while self._queue:
            pieces = [item.data for item in islice(self._queue, MAX_PIECES)]
            try:
                written = os.writev(self._fd, pieces)
            except BlockingIOError:
                self._watch(True)
                return
            except OSError:
                # The reader is gone; the process's end is reported by its exit.
                self._waiting = False
                self.close()
                return
            self._queued_bytes -= written
            self._take_out(written)
        self._watch(False)

    def _take_out(self, written: int) -> None:
        """Remove the lines whose bytes are out; the next one may have been begun."""
        while written:
            item = self._queue[0]
            if written < len(item.data):
                item.begun = True
                item.data = item.data[written:]
                return
            written -= len(item.data)
            if item.timer is not None:
                item.timer.cancel()
            self._queue.popleft()

    def _watch(self, wanted: bool) -> None:
        if wanted != self._waiting:
            self._waiting = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)
