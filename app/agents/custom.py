"""An app's own agent loop, over the channel to its process.

Source: REST contract part 40, section 1.9.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final
from uuid import UUID, uuid4

from app.agents import attachments, calls, memory, runs, transcript
from app.agents import run_repository as repository
from app.agents.active import ActiveRun
from app.agents.calls import Asked, Waiting
from app.agents.control import RunFailed
from app.agents.memory import Remembered
from app.agents.tools.base import InvokeAgent
from app.workers.service import CallOutcome, Conversation, OutcomeKind, WorkerHost
from workers_runtime.protocol import CallKind

JSONObject = dict[str, Any]  # Any: JSON values
Answer = Callable[[JSONObject], None]

POLL_S: Final = 0.05
LOOK_S: Final = 0.5
ERRORS = {OutcomeKind.CRASHED: "worker crashed", OutcomeKind.STOPPED: "worker stopped"}


class CustomHandler:
    """Has an app's process work on one run; gates, supervision and records stay here.

    Args:
        active: the run.
        host: the node whose process works.
        remembered: the session's history; empty when memory is off.
        invoke_agent: makes the function that starts a sub-agent for a call.
    """

    def __init__(
        self,
        active: ActiveRun,
        host: WorkerHost,
        *,
        remembered: list[Remembered],
        invoke_agent: Callable[[UUID], InvokeAgent],
    ) -> None:
        self._active = active
        self._host = host
        self._remembered = remembered
        self._invoke_agent = invoke_agent
        self._inbox: queue.SimpleQueue[tuple[JSONObject, Answer]] = queue.SimpleQueue()
        self._waiting: list[tuple[Asked, Answer]] = []
        self._waiting_since = 0.0
        self._looked_at = 0.0

    def work(self) -> None:
        """Return once the process has answered.

        Raises:
            RunFailed: it failed, or the run may not go on.
            Cancelled: the run is to be cancelled.
        """
        active = self._active
        with active.platform.uow() as uow:
            row = active.hold(uow)
            row.state_data = {**row.state_data, "custom": True}
            files = attachments.addresses(
                uow,
                active.platform.settings.http.public_url,
                active.run.app_id,
                active.transcript[0]["content"],
            )
        conversation = Conversation(lambda message, answer: self._inbox.put((message, answer)))
        future = self._host.call(
            active.run.app_id,
            CallKind.AGENT,
            self._message(files),
            actor=active.authority.caller(),
            conversation=conversation,
        )
        try:
            self._listen(future)
        except Exception:
            # Whatever ended our part: the process must not go on for nobody.
            self._host.end_call(conversation.token, runs.CANCELLED)
            raise
        self._conclude(future.result())

    def _message(self, files: list[JSONObject]) -> JSONObject:
        run = self._active.run
        message: JSONObject = {
            "invoke_id": str(run.id),
            "session_id": str(run.session_id),
            "message": run.config["message"],
            "history": [{"role": item.role, "content": item.content} for item in self._remembered],
            "invoker_user_id": None if run.invoker_id is None else str(run.invoker_id),
            "task_scope": self._active.authority.scope.sorted(),
        }
        if files:
            message["attachments"] = files
        if run.parent_run_id is not None:
            message["is_sub_invoke"] = True
        model = run.config.get("model")
        if model is not None:
            message["llm"] = {"provider": model["provider"], "model": model["model"]}
        return message

    # --- while the process works -----------------------------------------------------------

    def _listen(self, future: Future[CallOutcome]) -> None:
        while True:
            self._active.control.check(may_yield=False)
            ended = future.done()
            try:
                message, answer = self._inbox.get(timeout=0 if ended else POLL_S)
            except queue.Empty:
                if ended:
                    return
            else:
                self._take(message, answer)
            self._look_at_approvals()

    def _take(self, message: JSONObject, answer: Answer) -> None:
        if message.get("invoke_id") != str(self._active.run.id):
            return
        kind = message.get("type")
        if kind == "agent_chunk" and isinstance(message.get("delta"), str) and message["delta"]:
            self._active.say(transcript.clean(message["delta"]))
        elif kind == "agent_session_compacted" and isinstance(message.get("summary"), str):
            self._compacted(transcript.clean(message["summary"]))
        elif kind == "agent_tool_call":
            self._tool_call(message, answer)

    def _compacted(self, summary: str) -> None:
        active = self._active
        with active.platform.uow() as uow:
            active.hold(uow)
            if self._remembered:
                memory.store_summary(
                    uow.session,
                    active.run.session_id,
                    active.run.id,
                    text=summary,
                    tokens=0,
                    covers_seq=self._remembered[-1].seq,
                )
            active.stream.event(uow, "session_compacted", {"summary": summary})

    def _tool_call(self, message: JSONObject, answer: Answer) -> None:
        given = message.get("args")
        # Ids of the process are its own; ours must be unique for ever.
        asked = Asked(
            uuid4(),
            transcript.clean(str(message.get("tool_name", ""))),
            transcript.cleaned_object(given),
            str(message.get("call_id", "")),
        )
        with self._active.platform.uow() as uow:
            self._active.hold(uow)
            calls.insert(uow, self._active, asked)
        self._try(asked, answer)

    def _try(self, asked: Asked, answer: Answer) -> bool:
        """Bring a call as far as it gets; tell whether it ended."""
        try:
            result = calls.handle(self._active, asked, self._invoke_agent)
        except Waiting:
            if (asked, answer) not in self._waiting:
                self._waiting.append((asked, answer))
                self._show("waiting_approval")
            return False
        answer({"result": result.output} if result.error is None else {"error": result.error})
        return True

    def _look_at_approvals(self) -> None:
        now = time.monotonic()
        if not self._waiting or now - self._looked_at < LOOK_S:
            return
        # The time a person takes to decide is not working time.
        self._active.control.pause(now - max(self._looked_at, self._waiting_since))
        self._looked_at = now
        self._waiting = [item for item in self._waiting if not self._try(*item)]
        if not self._waiting:
            self._show("running")

    def _show(self, state: str) -> None:
        if state == "waiting_approval" and len(self._waiting) > 1:
            return
        self._waiting_since = time.monotonic()
        with self._active.platform.uow() as uow:
            row = self._active.hold(uow)
            row.state = state
            repository.set_session_status(uow.session, row.session_id, state)

    # --- its answer ------------------------------------------------------------------------

    def _conclude(self, outcome: CallOutcome) -> None:
        if not outcome.ok:
            if outcome.kind in {OutcomeKind.HANDLER_ERROR, OutcomeKind.RESULT}:
                raise RunFailed(f"agent handler failed: {outcome.error}")
            raise RunFailed(ERRORS.get(outcome.kind, outcome.error))
        value = outcome.value if isinstance(outcome.value, dict) else {}
        response, tokens = value.get("response"), value.get("tokens")
        said = self._active.response
        if isinstance(response, str) and response != said and response.startswith(said):
            self._active.say(transcript.clean(response[len(said) :]))
        is_count = isinstance(tokens, int) and not isinstance(tokens, bool)
        self._active.spend(tokens if is_count else None)
