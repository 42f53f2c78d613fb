"""Installing an app of 200 entities: fresh, unchanged, and with a field more in each.

The target is 10 s for a fresh install. ``python -m tests.bench.install``.
"""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from tests.bench import stacks

ENTITIES = 200
TARGET_S = 10.0


def entity(number: int, **extra: Any) -> dict[str, Any]:
    """Return an entity with a link to the one before, an enum, an index and a check."""
    fields = [
        {"name": "name", "type": "text", "required": True},
        {"name": "kind", "type": "text", "enum_values": ["a", "b"], "default_value": "a"},
        {"name": "amount", "type": "number", "default_value": 0},
        {"name": "due", "type": "date"},
        {"name": "tags", "type": "[text]"},
    ]
    if number:
        target = {"entity": f"e{number - 1}"}
        fields.append({"name": "parent", "type": "entity_link", "references": target})
    return {
        "entityName": f"e{number}",
        "fields": [*fields, *extra.get("fields", ())],
        "indexes": [{"columns": ["name"]}],
        "checks": [{"expr": "amount >= 0"}],
    }


def manifest(**extra: Any) -> dict[str, Any]:
    """Return the app's manifest."""
    contract = [entity(number, **extra) for number in range(ENTITIES)]
    return {"appId": "big", "name": "Big", "dataContract": contract}


def cpu_s() -> float:
    """Return the CPU seconds of every server and web process this bench started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    """Print seconds of the clock and of the CPU for each kind of install."""
    added = manifest(fields=[{"name": "extra", "type": "text"}])
    with stacks.platform("web") as ours:
        for what, body in (
            ("fresh", manifest()),
            ("unchanged", manifest()),
            ("a field more in each", added),
        ):
            cpu, started = cpu_s(), time.perf_counter()
            answer = ours.admin.post("/apps", json=body, timeout=120)
            took = time.perf_counter() - started
            assert answer.status_code == 200, answer.text
            target = f"  (must < {TARGET_S:g} s)" if what == "fresh" else ""
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
            print(
                f"install of {ENTITIES} entities, {what}: {took:.1f} s, CPU {cpu_s() - cpu:.1f} s,"
                f" load per core {load:.1f}{target}"
            )
        shown = ours.admin.get("/apps").json()
        assert len(shown[-1]["entities"]) == ENTITIES


if __name__ == "__main__":
    main()
