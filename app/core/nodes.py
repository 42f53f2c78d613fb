"""The live nodes as Redis knows them: their names, and a key per node that expires with it.

Source: ADR 0003.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redis import Redis

NODES: Final = "nodes"
NODE_PREFIX: Final = "node:"


def read_nodes(redis: Redis) -> Mapping[str, str]:
    """Return the live nodes: name to boot id."""
    members: Any = redis.smembers(NODES)  # Any: redis-py's union of sync and async
    names = sorted(_text(member) for member in members)
    if not names:
        return {}
    values: Any = redis.mget([NODE_PREFIX + name for name in names])  # Any: as above
    found = {n: _text(v) for n, v in zip(names, values, strict=True) if v is not None}
    gone = [name for name in names if name not in found]
    if gone:
        redis.srem(NODES, *gone)
    return found


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
