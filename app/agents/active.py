"""A run while a worker works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.agents import runs
from app.agents.authority import Authority
from app.agents.control import Control
from app.agents.models import AgentRun
from app.agents.runs import Run
from app.agents.streams import RunStream
from app.agents.tools.base import InvokeAgent, Tool, ToolContext
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.workers.service import WorkerHost

JSONObject = dict[str, Any]  # Any: JSON values


@dataclass(slots=True)
class ActiveRun:
    """Everything a worker needs while it works on a run; used by one thread at a time.

    Attributes:
        tools: the tools this run may use, by name.
        parts: the streamed text, piece by piece.
        turn: model calls made so far.
    """

    platform: Platform
    host: WorkerHost | None
    run: Run
    authority: Authority
    control: Control
    stream: RunStream
    tools: Mapping[str, Tool]
    transcript: list[JSONObject]
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    tokens_known: bool = True
    turn: int = 0

    @property
    def limits(self) -> JSONObject:
        """``limits`` of the agent."""
        found: JSONObject = self.run.config["limits"]
        return found

    @property
    def response(self) -> str:
        """The text streamed so far."""
        return "".join(self.parts)

    def hold(self, uow: UnitOfWork) -> AgentRun:
        """Return the locked row, or raise ``NotHolding``."""
        return runs.holding(uow.session, self.run.id, self.run.owner)

    def say(self, delta: str) -> None:
        """Stream a piece of text."""
        self.parts.append(delta)
        self.stream.chunk(delta)

    def spend(self, tokens: int | None) -> None:
        """Count tokens; once a provider is silent about them the sum is unknown."""
        if tokens is None:
            self.tokens_known = False
        else:
            self.tokens += tokens

    def save(self, uow: UnitOfWork, row: AgentRun) -> None:
        """Write down how far the run is; another worker could go on from here."""
        row.transcript = list(self.transcript)
        row.response = self.response
        row.tokens = self.tokens
        row.tokens_known = self.tokens_known
        row.state_data = {**row.state_data, "turn": self.turn, "seq": self.stream.seq}
        uow.session.flush()

    def context(self, invoke_agent: InvokeAgent | None) -> ToolContext:
        """Return what a tool gets to know."""
        return ToolContext(
            platform=self.platform,
            app_id=self.run.app_id,
            actor=self.authority.actor(self.run.app_id),
            caller=self.authority.caller(),
            host=self.host,
            invoke_agent=invoke_agent,
        )


def call_id_of(block: JSONObject) -> UUID:
    """Return our id of a call in a transcript."""
    return UUID(block["id"])
