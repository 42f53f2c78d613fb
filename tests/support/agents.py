"""Agents in tests: a worker on threads of the test process, and what clients see."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from werkzeug.test import TestResponse

from app.agents import service
from app.agents.control import Keeper
from app.agents.definition import parse
from app.agents.models import AgentRun
from app.agents.runner import Runner
from app.core.platform import Platform
from tests.fakes.model_server import ModelServer
from tests.support.api import ApiClient

MANIFEST = {
    "appId": "stock",
    "name": "Stock",
    "version": "1.0.0",
    "dataContract": [
        {
            "entityName": "moves",
            "fields": [
                {"name": "item", "type": "text", "required": True},
                {"name": "amount", "type": "number"},
                {"name": "kind", "type": "text", "enum_values": ["in", "out"]},
            ],
        },
        {"entityName": "notes", "fields": [{"name": "body", "type": "text"}]},
    ],
}


@dataclass
class AgentWorker:
    """Works on queued runs with the real runner, one thread per run, as a node does."""

    platform: Platform
    name: str = "test"
    host: Any = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.platform, self.name)
        self.runner = Runner(self.platform, self.host, self.keeper)

    def start(self) -> None:
        thread = threading.Thread(target=self._poll, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Stop in order: every run is handed on after its current step."""
        self._stop.set()
        self.keeper.stop()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _poll(self) -> None:
        seen: set[tuple[UUID, Any]] = set()
        query = select(AgentRun.id, AgentRun.queued_at).where(
            AgentRun.state == "queued", AgentRun.parent_run_id.is_(None)
        )
        while not self._stop.is_set():
            with self.platform.engine.connect() as connection:
                rows = {(row[0], row[1]) for row in connection.execute(query)}
            for row in rows - seen:
                thread = threading.Thread(target=self.runner.run, args=(row[0],), daemon=True)
                self._threads.append(thread)
                thread.start()
            seen |= rows
            time.sleep(0.01)


@contextmanager
def working(platform: Platform, **options: Any) -> Iterator[AgentWorker]:
    """Run a worker until the end of the block."""
    worker = AgentWorker(platform, **options)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def install_agent(
    platform: Platform,
    admin: ApiClient,
    manifest: dict[str, Any] | None = None,
    **agent: Any,
) -> str:
    """Install an app and register its agent as a deploy does; return the app id."""
    manifest = manifest or MANIFEST
    answer = admin.post("/apps", manifest)
    assert answer.status_code == 200, answer.json
    document = {"name": "Stock keeper", "systemPrompt": "You keep the stock.", **agent}
    raw = json.dumps(document).encode()
    found = parse(lambda path: raw if path == "agent.json" else None)
    assert found is not None
    with platform.uow() as uow:
        service.register(uow, manifest["appId"], found, owner_id=UUID(admin.user_id))
    return manifest["appId"]


def register_model(admin: ApiClient, server: ModelServer, api: str = "chat", **config: Any) -> None:
    """Register the fake server as the default model."""
    provider = "anthropic" if api == "messages" else "openai"
    settings = {"base_url": server.root if provider == "anthropic" else server.v1, **config}
    if provider == "openai":
        settings["api"] = api
    body = {"id": "fake", "name": "Fake", "provider": provider, "model": "m", "config": settings}
    answer = admin.post("/llm-models", {**body, "is_default": True})
    assert answer.status_code == 201, answer.json


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    seq: int
    kind: str
    data: dict[str, Any]


def parse_stream(body: str) -> list[Event]:
    """Return the events of a stream, comments left out."""
    events = []
    for block in body.split("\n\n"):
        lines = dict(
            line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
        )
        if lines:
            events.append(Event(int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return events


@dataclass(frozen=True)
class Talk:
    """An answer to an invoke, read to its end."""

    events: list[Event]
    session_id: str
    run_id: str

    @classmethod
    def of(cls, response: TestResponse) -> Talk:
        assert response.status_code == 200, response.data
        assert response.content_type == "text/event-stream"
        return cls(
            parse_stream(response.get_data(as_text=True)),
            response.headers["X-Session-Id"],
            response.headers["X-Run-Id"],
        )

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def text(self) -> str:
        return "".join(e.data["delta"] for e in self.events if e.kind == "chunk")

    @property
    def last(self) -> Event:
        return self.events[-1]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


def ask(client: ApiClient, message: str, app_id: str = "stock", **body: Any) -> Talk:
    """Invoke an agent and read the whole stream."""
    return Talk.of(client.post(f"/apps/{app_id}/agent/invoke", {"message": message, **body}))


def ask_aside(client: ApiClient, message: str, app_id: str = "stock", **body: Any) -> Aside:
    """Invoke an agent and read the stream on a thread of its own."""
    response = client.post(f"/apps/{app_id}/agent/invoke", {"message": message, **body})
    assert response.status_code == 200, response.data
    return Aside(response)


class Aside:
    """A stream that is being read elsewhere."""

    def __init__(self, response: TestResponse) -> None:
        self.session_id = response.headers["X-Session-Id"]
        self.run_id = response.headers["X-Run-Id"]
        self._response = response
        self._body: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for piece in self._response.iter_encoded():
            self._body.append(piece.decode())

    @property
    def events(self) -> list[Event]:
        return parse_stream("".join(self._body))

    def wait_for(self, kind: str, timeout: float = 15.0) -> dict[str, Any]:
        """Return the data of the first event of a kind."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in self.events:
                if event.kind == kind:
                    return event.data
            time.sleep(0.01)
        raise AssertionError(f"no {kind} in {self.events}")

    def finish(self, timeout: float = 20.0) -> Talk:
        """Wait for the end of the stream."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), self.events
        return Talk(self.events, self.session_id, self.run_id)


def state_of(platform: Platform, run_id: str) -> str:
    """Return a run's state."""
    with platform.engine.connect() as connection:
        query = text("SELECT state FROM trellis.agent_runs WHERE id = :id")
        return connection.execute(query, {"id": run_id}).scalar_one()


def wait_for_state(platform: Platform, run_id: str, state: str, timeout: float = 15.0) -> None:
    """Wait until a run is in a state."""
    end = time.monotonic() + timeout
    while (found := state_of(platform, run_id)) != state:
        assert time.monotonic() < end, found
        time.sleep(0.01)
