"""Log lines on their way to the node: order, bounds, and what a slow node costs."""

from __future__ import annotations

import asyncio

from workers_runtime.logs import MAX_PENDING_PER_APP, LogSink
from workers_runtime.node_protocol import Logs


class Node:
    def __init__(self) -> None:
        self.batches: list[Logs] = []
        self.slow = False
        self.sink = LogSink(self.batches.append, lambda: self.slow)

    @property
    def entries(self) -> list[list[object]]:
        return [entry for batch in self.batches for entry in batch.entries]


def test_lines_leave_in_order_within_milliseconds() -> None:
    async def scenario() -> Node:
        node = Node()
        for n in range(3):
            node.sink.add("crm", "info", str(n), 7)
        assert node.batches == []
        await asyncio.sleep(0.05)
        return node

    node = asyncio.run(scenario())
    assert len(node.batches) == 1
    assert [(e[0], e[1], e[2], e[4]) for e in node.entries] == [
        ("crm", "info", str(n), 7) for n in range(3)
    ]


def test_messages_are_cut() -> None:
    async def scenario() -> Node:
        node = Node()
        node.sink.add("crm", "info", "x" * 9000)
        node.sink.flush()
        return node

    assert len(str(asyncio.run(scenario()).entries[0][2])) == 8192


def test_slow_node_costs_lines_of_the_loud_app_only() -> None:
    async def scenario() -> Node:
        node = Node()
        node.slow = True
        for n in range(MAX_PENDING_PER_APP + 5):
            node.sink.add("loud", "info", str(n))
        node.sink.add("quiet", "info", "hello")
        node.sink.add("loud", "system", "worker crashed (exit 1)")
        node.sink.flush()
        assert node.batches == []
        node.slow = False
        await asyncio.sleep(0.2)
        return node

    entries = asyncio.run(scenario()).entries
    texts = [entry[2] for entry in entries]
    assert "hello" in texts
    assert "worker crashed (exit 1)" in texts
    assert entries[-1][:3] == ["loud", "system", "5 log entries dropped"]
    assert len(entries) == MAX_PENDING_PER_APP + 3
