"""Lines over pipes: framing, the length cap, and writes that do not get through."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_runtime.channel import LineSplitter, PipeReader, PipeWriter


def split(data: bytes, sizes: list[int], cap: int = 1000) -> tuple[list[bytes], int]:
    splitter = LineSplitter(cap)
    lines: list[bytes] = []
    for size in [*sizes, len(data)]:
        lines += splitter.feed(data[:size]) if data[:size] else []
        data = data[size:]
    return lines, splitter.discarded


@given(st.binary(), st.lists(st.integers(1, 50)))
def test_any_cut_gives_the_same_lines(data: bytes, sizes: list[int]) -> None:
    assert split(data, sizes) == split(data, [])


def test_crlf_and_blank_lines() -> None:
    assert split(b"a\r\n\n\r\nb\nrest", [])[0] == [b"a", b"", b"", b"b"]


@given(st.integers(1, 40))
def test_overlong_lines_are_dropped_and_the_next_survives(size: int) -> None:
    data = b"x" * 11 + b"\nok\n" + b"y" * 500 + b"\n" + b"z" * 10 + b"\n"
    assert split(data, [size] * 20, cap=10) == ([b"ok", b"z" * 10], 2)


def test_memory_of_an_endless_line_is_bounded() -> None:
    splitter = LineSplitter(1000)
    for _ in range(100):
        splitter.feed(b"x" * 500)
    assert sum(map(len, splitter._parts)) <= 1000


class Collected:
    def __init__(self, fd: int) -> None:
        self.lines: list[bytes] = []
        self.discarded = 0
        self.ended = asyncio.Event()
        self.reader = PipeReader(
            fd,
            max_line_bytes=100,
            on_lines=self.lines.extend,
            on_discard=self._discard,
            on_end=self.ended.set,
        )

    def _discard(self, count: int) -> None:
        self.discarded += count


def test_reader_gets_the_last_line_without_its_end() -> None:
    async def scenario() -> Collected:
        read, write = os.pipe()
        got = Collected(read)
        os.write(write, b"one\ntwo\n" + b"x" * 200 + b"\nlast")
        os.close(write)
        await asyncio.wait_for(got.ended.wait(), 5)
        return got

    got = asyncio.run(scenario())
    assert (got.lines, got.discarded) == ([b"one", b"two", b"last"], 1)


def test_paused_reader_takes_nothing_until_resumed() -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        read, write = os.pipe()
        got = Collected(read)
        got.reader.pause()
        os.write(write, b"a\n")
        await asyncio.sleep(0.05)
        before = list(got.lines)
        got.reader.resume()
        os.close(write)
        await asyncio.wait_for(got.ended.wait(), 5)
        return before, got.lines

    assert asyncio.run(scenario()) == ([], [b"a"])


def test_writer_fails_what_does_not_get_through_and_stays_whole() -> None:
    """The begun line is finished once there is room again; the one behind it was dropped."""

    async def scenario() -> tuple[list[str], bytes]:
        read, write = os.pipe()
        failed: list[str] = []
        writer = PipeWriter(write, timeout_s=0.05)
        big = b"a" * 200_000 + b"\n"
        writer.write(big, lambda: failed.append("big"))
        writer.write(b"small\n", lambda: failed.append("small"))
        await asyncio.sleep(0.2)
        writer.write(b"late\n", lambda: failed.append("late"))
        data = b""
        while len(data) < len(big) + len(b"late\n"):
            await asyncio.sleep(0.001)
            data += os.read(read, 1 << 20)
        writer.close()
        await asyncio.sleep(0.1)
        assert data == big + b"late\n"
        os.close(read)
        return failed, data

    assert asyncio.run(scenario())[0] == ["big", "small"]


def test_lines_of_one_turn_leave_together_whole_and_in_order() -> None:
    lines = [bytes([65 + n % 26]) * 7_000 + b"\n" for n in range(60)]

    async def scenario() -> bytes:
        read, write = os.pipe()
        failed: list[bytes] = []
        writer = PipeWriter(write, timeout_s=5)
        for line in lines:
            writer.write(line, lambda line=line: failed.append(line))
        first = os.read(read, 1 << 20)
        assert first == lines[0]
        await asyncio.sleep(0)
        data = first
        while len(data) < sum(map(len, lines)):
            data += os.read(read, 9_000)
            await asyncio.sleep(0)
        writer.close()
        os.close(read)
        assert not failed
        return data

    assert asyncio.run(scenario()) == b"".join(lines)


def test_writer_bounds_what_it_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers_runtime.channel.MAX_QUEUED_BYTES", 300_000)

    async def scenario() -> list[int]:
        read, write = os.pipe()
        failed: list[int] = []
        writer = PipeWriter(write, timeout_s=60)
        for n in range(5):
            writer.write(b"a" * 100_000, lambda n=n: failed.append(n))
        await asyncio.sleep(0)
        writer.close()
        os.close(read)
        return failed

    failed = asyncio.run(scenario())
    assert failed
    assert failed[0] >= 3


def test_writer_survives_a_closed_reader() -> None:
    async def scenario() -> list[str]:
        read, write = os.pipe()
        writer = PipeWriter(write, timeout_s=1)
        os.close(read)
        failed: list[str] = []
        writer.write(b"x\n", lambda: failed.append("first"))
        writer.write(b"y\n", lambda: failed.append("second"))
        await asyncio.sleep(0.05)
        writer.close()
        return failed

    assert asyncio.run(scenario()) == ["second"]
