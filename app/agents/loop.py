"""The built-in loop: ask the model, run its tools, until it is done.

Source: REST contract part 40, section 1.8.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import structlog

from app.agents import attachments, calls, llm, memory, transcript
from app.agents.active import ActiveRun, call_id_of
from app.agents.calls import Asked, Result, Waiting
from app.agents.control import RunFailed
from app.agents.memory import Remembered
from app.agents.providers.base import (
    ModelReply,
    ModelRequest,
    Provider,
    ProviderError,
    ToolSpec,
    ToolUse,
)
from app.agents.providers.calling import complete, open_provider
from app.agents.tools.base import InvokeAgent

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values


class LoopEnd(StrEnum):
    """How a worker's part in a run ends without an error."""

    DONE = "done"
    PARKED = "parked"


class BuiltInLoop:
    """Works on one run.

    Args:
        active: the run.
        system: the system text.
        specs: the tools as the model sees them.
        remembered: the session's history; empty when memory is off.
        invoke_agent: makes the function that starts a sub-agent for a call.
    """

    def __init__(
        self,
        active: ActiveRun,
        *,
        system: str,
        specs: list[ToolSpec],
        remembered: list[Remembered],
        invoke_agent: Callable[[UUID], InvokeAgent],
    ) -> None:
        self._active = active
        self._system = system
        self._specs = specs
        self._remembered = remembered
        self._invoke_agent = invoke_agent

    def work(self) -> LoopEnd:
        """Go on until the model is done, a person has to decide, or an error is raised.

        Raises:
            RunFailed: the run cannot go on.
            ProviderError: the model cannot be reached or refuses.
        """
        with self._active.platform.uow() as uow:
            config = llm.configured(
                uow.session,
                self._active.platform.cipher,
                self._active.run.app_id,
                self._active.run.config["model"],
                call_limit_s=self._active.platform.settings.agents.model_call.total_seconds(),
            )
        provider = open_provider(config)
        try:
            return self._turns(provider, attachments.Loader(self._active, config))
        finally:
            provider.close()

    def _turns(self, provider: Provider, loader: attachments.Loader) -> LoopEnd:
        active = self._active
        while True:
            if self._open_calls():
                if not self._run_calls():
                    return LoopEnd.PARKED
                continue
            self._check_budget()
            self._compact(provider)
            reply = self._ask(provider, loader)
            self._note(reply)
            if not reply.tool_uses:
                return LoopEnd.DONE
            active.control.check()

    def _check_budget(self) -> None:
        active = self._active
        most = active.limits["maxTurns"]
        if active.turn >= most:
            raise RunFailed(f"turn limit of {most} reached")
        budget = active.limits.get("maxTokens")
        if budget is not None and active.tokens >= budget:
            raise RunFailed(f"token limit of {budget} reached")
        active.control.check()

    # --- the model -------------------------------------------------------------------------

    def _ask(self, provider: Provider, loader: attachments.Loader) -> ModelReply:
        active = self._active
        heard = False

        def on_text(given: str) -> None:
            nonlocal heard
            delta = transcript.clean(given)
            active.control.check(may_yield=not heard)
            if not heard and active.parts:
                active.say("\n\n")
            heard = True
            active.say(delta)

        messages = memory.merged(
            [*memory.as_messages(self._remembered), *loader.expand(active.transcript)]
        )
        request = ModelRequest(self._system, messages, self._specs)
        return complete(
            provider,
            request,
            on_text,
            wait=active.control.wait,
            check=lambda: active.control.check(may_yield=not heard),
        )

    def _note(self, reply: ModelReply) -> None:
        """Save a model's answer before anything it asks for is done."""
        active = self._active
        asked = [_asked(use) for use in reply.tool_uses]
        blocks = [transcript.text(transcript.clean(reply.text))] if reply.text else []
        blocks += [
            transcript.tool_use(str(a.call_id), a.provider_id, a.tool_name, a.given or {})
            | ({"malformed": True} if a.given is None else {})
            for a in asked
        ]
        if blocks:
            active.transcript.append(transcript.assistant(*blocks))
        active.turn += 1
        active.spend(reply.tokens)
        with active.platform.uow() as uow:
            row = active.hold(uow)
            for item in asked:
                calls.insert(uow, active, item)
            active.save(uow, row)

    # --- tools -----------------------------------------------------------------------------

    def _open_calls(self) -> list[JSONObject]:
        last = self._active.transcript[-1]
        if last["role"] != "assistant":
            return []
        return [block for block in last["content"] if block["type"] == "tool_use"]

    def _run_calls(self) -> bool:
        """Run the calls of the last turn in order; tell whether all have ended."""
        active = self._active
        results: list[tuple[JSONObject, Result]] = []
        waiting = False
        for block in self._open_calls():
            given = None if block.get("malformed") else block["input"]
            asked = Asked(call_id_of(block), block["name"], given, block["provider_id"])
            try:
                results.append((block, calls.handle(active, asked, self._invoke_agent)))
            except Waiting:
                waiting = True
        if waiting:
            return False
        active.transcript.append(
            transcript.user(
                *(
                    transcript.tool_result(
                        block["id"],
                        block["provider_id"],
                        result.text,
                        is_error=result.error is not None,
                    )
                    for block, result in results
                )
            )
        )
        with active.platform.uow() as uow:
            active.save(uow, active.hold(uow))
        return True

    # --- memory ----------------------------------------------------------------------------

    def _too_long(self) -> bool:
        active = self._active
        messages = [*memory.as_messages(self._remembered), *active.transcript]
        most = memory.FULL * float(active.limits["maxContextTokens"])
        return transcript.estimated_tokens(messages, self._system) >= most

    def _compact(self, provider: Provider) -> None:
        if not self._active.run.config["memory"]["enabled"] or not self._too_long():
            return
        keep = int(self._active.limits["keepRecentMessages"])
        if len(self._remembered) > keep:
            self._summarise(provider, keep)
        if self._too_long():
            self._active.transcript[:] = transcript.without_old_results(self._active.transcript)

    def _summarise(self, provider: Provider, keep: int) -> None:
        active = self._active
        older, recent = memory.to_summarise(self._remembered, keep)
        text = memory.conversation(older)
        request = ModelRequest(memory.SUMMARY_PROMPT, [transcript.user(transcript.text(text))])
        try:
            reply = complete(
                provider,
                request,
                lambda _delta: active.control.check(),
                wait=active.control.wait,
                check=active.control.check,
            )
        except ProviderError as exc:
            log.warning("agent_summary_failed", run_id=str(active.run.id), reason=exc.reason)
            return
        active.spend(reply.tokens)
        if not reply.text.strip():
            return
        with active.platform.uow() as uow:
            row = active.hold(uow)
            memory.store_summary(
                uow.session,
                active.run.session_id,
                active.run.id,
                text=transcript.clean(reply.text),
                tokens=reply.tokens or 0,
                covers_seq=older[-1].seq,
            )
            summary = transcript.clean(reply.text)
            active.stream.event(uow, "session_compacted", {"summary": summary})
            active.save(uow, row)
        self._remembered = [
            Remembered(older[-1].seq, "system", reply.text, is_summary=True),
            *recent,
        ]


def _asked(use: ToolUse) -> Asked:
    return Asked(
        uuid4(), transcript.clean(use.name), transcript.cleaned_object(use.input), use.provider_id
    )
