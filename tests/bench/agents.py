"""A1: from the start of an agent's run to its first event. ``python -m tests.bench.agents``.

The model is the fake server in this process, which answers at once: what is left is ours.
"""

from __future__ import annotations

import json
import statistics
import time
from datetime import datetime

import httpx
from sqlalchemy import create_engine

from tests.acceptance.conftest import archive
from tests.bench import stacks
from tests.fakes.model_server import Answer, ModelServer, model_server

MUST_MS = 50


def main(runs: int = 60, warm_ups: int = 10) -> None:
    """Measure runs one after the other and print median and 99th percentile."""
    with stacks.platform("web", "worker") as bench, model_server() as model:
        _prepare(bench, model)
        engine = create_engine(bench.stack.env["DATABASE_URL"])
        invoked, started = [], []
        for number in range(warm_ups + runs):
            asked, arrived, run_id = _first_event(bench)
            with engine.connect() as connection:
                query = f"SELECT started_at FROM trellis.agent_runs WHERE id = '{run_id}'"
                at: datetime = connection.exec_driver_sql(query).scalar_one()
            if number >= warm_ups:
                invoked.append((arrived - asked) * 1000)
                started.append((arrived - at.timestamp()) * 1000)
        engine.dispose()
    _show("run started -> first event", started, f"  (must p50 <= {MUST_MS})")
    _show("invoke sent -> first event", invoked, "")


def _prepare(bench: stacks.Bench, model: ModelServer) -> None:
    model.script = lambda _seen: Answer(text=["Hello."])
    bench.admin.post("/apps", json={"appId": "desk", "name": "Desk"}).raise_for_status()
    files = {"archive": archive(**{"agent.json": json.dumps({"name": "Desk"})})}
    bench.admin.post("/apps/desk/deploy", files=files).raise_for_status()
    body = {"id": "fake", "name": "Fake", "provider": "openai", "model": "m"}
    config = {"base_url": model.v1}
    bench.admin.post("/llm-models", json={**body, "config": config}).raise_for_status()


def _first_event(bench: stacks.Bench) -> tuple[float, float, str]:
    """Return when a run was asked for, when its first event came, and its id."""
    asked = time.time()
    arrived = 0.0
    path = "/apps/desk/agent/invoke"
    with bench.admin.stream("POST", path, json={"message": "Hi"}) as response:
        for line in response.iter_lines():
            if line.startswith("id: ") and not arrived:
                arrived = time.time()
        if not arrived:
            raise httpx.RemoteProtocolError("the stream had no event")
        return asked, arrived, response.headers["X-Run-Id"]


def _show(what: str, values: list[float], note: str) -> None:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"A1 {what}   p50 {statistics.median(ordered):6.2f} ms  p99 {p99:7.2f} ms{note}")


if __name__ == "__main__":
    main()
