"""Working on a run: what the Celery tasks ``agents.run`` and ``agents.resume`` do.

Source: REST contract part 40, sections 1.7, 1.8 and 1.14; ADR 0007.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.agents import authority as authorities
from app.agents import memory, repository, requests, runs, streams
from app.agents import run_repository as run_rows
from app.agents.active import ActiveRun
from app.agents.authority import Authority
from app.agents.calls import Waiting
from app.agents.control import Cancelled, Control, Keeper, RunFailed, Yielding
from app.agents.custom import CustomHandler
from app.agents.loop import BuiltInLoop, LoopEnd
from app.agents.mcp import servers
from app.agents.mcp import tools as mcp_tools
from app.agents.messages import ResumeRun
from app.agents.models import AgentRun
from app.agents.providers.base import ProviderError, ToolSpec
from app.agents.runs import NotHolding, Run
from app.agents.tools import registry
from app.agents.tools.base import InvokeAgent, Tool
from app.apps import service as apps_service
from app.auth import service as auth_service
from app.core.errors import AppError, Failed, Invalid, NotFound
from app.core.platform import Platform
from app.workers.service import WorkerHost

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

BUSY_RETRY_S = 1.0
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)


class Runner:
    """Works on runs in one process.

    Args:
        platform: the process's platform.
        host: the process's node; None where no app code can be called.
        keeper: keeps the process's runs alive.
    """

    def __init__(self, platform: Platform, host: WorkerHost | None, keeper: Keeper) -> None:
        self._platform = platform
        self._host = host
        self._keeper = keeper
        self.mcp = servers.Node(platform)

    def run(self, run_id: UUID) -> None:
        """Take a queued run and work on it until it ends, parks or is handed on.

        A run in any other state is left alone, so duplicate messages are harmless.
        """
        with self._keeper.slot() as free:
            if not free:
                self._platform.publisher.delay(ResumeRun(str(run_id)), delay_s=BUSY_RETRY_S)
                return
            held = runs.take(self._platform, run_id, self._keeper.new_owner())
            if held is not None:
                self._root(held)

    def _root(self, run: Run) -> None:
        control = self._control(run)
        with self._keeper.watch(control):
            try:
                self._work_or_hand_on(run, control)
            except Waiting:
                log.info("agent_run_parked", run_id=str(run.id))
            except NotHolding:
                log.warning("agent_run_lost", run_id=str(run.id))
            except RunFailed:
                log.info("agent_run_failed", run_id=str(run.id))
            except DATABASE_AWAY as exc:
                # The row keeps its state; the sweeper finds it by its silence.
                log.warning("agent_run_dropped", run_id=str(run.id), reason=type(exc).__name__)

    def _work_or_hand_on(self, run: Run, control: Control) -> None:
        try:
            self._work(run, control, self._stream(run), None)
        except Yielding:
            self._hand_on(run, control)

    def _control(self, run: Run) -> Control:
        limit_s = self._platform.settings.agents.run_limit.total_seconds()
        limit_s = min(limit_s, run.config["limits"].get("maxSeconds", limit_s))
        return Control(
            run.id,
            run.owner,
            limit_s=limit_s - run.active_seconds,
            shown_limit=limit_s,
            job_id=None if run.job is None else run.job["msg_id"],
        )

    def _stream(self, run: Run, parent: streams.RunStream | None = None) -> streams.RunStream:
        return streams.RunStream(
            self._platform,
            run_id=run.id,
            app_id=run.app_id,
            session_id=run.session_id,
            seq=run.seq,
            parent=parent,
        )

    def _hand_on(self, run: Run, control: Control) -> None:
        with self._platform.uow() as uow:
            row = runs.holding(uow.session, run.id, run.owner)
            runs.requeue(uow, row, elapsed_s=control.elapsed_s)
        log.info("agent_run_handed_on", run_id=str(run.id))

    # --- one run ---------------------------------------------------------------------------

    def _work(
        self,
        run: Run,
        control: Control,
        stream: streams.RunStream,
        parent: ActiveRun | None,
    ) -> str:
        """Work on a run and write down its end; return its response.

        Raises:
            Waiting: it is parked.
            RunFailed: it failed; the row says so.
        """
        active: ActiveRun | None = None
        try:
            active, work = self._prepare(run, control, stream, parent)
            if work() is LoopEnd.PARKED:
                return self._park(active)
            return self._complete(active)
        except (Yielding, NotHolding, Waiting, *DATABASE_AWAY):
            raise
        except Cancelled:
            self._end(run, stream, active, "cancelled", runs.CANCELLED)
            if parent is not None:
                raise
            return ""
        except RunFailed as exc:
            self._end(run, stream, active, "failed", str(exc))
            raise
        except ProviderError as exc:
            text = f"model provider error: {exc.reason}"
            self._end(run, stream, active, "failed", text)
            raise RunFailed(text) from exc
        except Exception as exc:
            log.exception("agent_run_crashed", run_id=str(run.id))
            self._end(run, stream, active, "failed", "internal error")
            raise RunFailed("internal error") from exc

    def _prepare(
        self,
        run: Run,
        control: Control,
        stream: streams.RunStream,
        parent: ActiveRun | None,
    ) -> tuple[ActiveRun, Callable[[], object]]:
        with self._platform.uow() as uow:
            row = runs.holding(uow.session, run.id, run.owner)
            authority = authorities.resolve(
                uow.session, run, None if parent is None else parent.authority
            )
            row.scope = authority.scope.sorted()
            row.agent_scope = authority.agent.sorted()
            manifest = apps_service.manifest_of(uow.session, run.app_id)
            tools = {**registry.BUILT_IN, **mcp_tools.load(uow.session, self.mcp.call)}
            system = _system_text(run, manifest, self._invoker(uow.session, run, authority))
            remembered = []
            if run.config["memory"]["enabled"]:
                remembered = memory.history(uow.session, run.session_id, before_run=run.id)
        active = self._active(run, control, stream, authority, tools)

        def invoke_agent(call_id: UUID) -> InvokeAgent:
            return self._invoker_of(active, call_id)

        if self._host is not None and self._has_own_loop(self._host, run.app_id):
            handler = CustomHandler(
                active, self._host, remembered=remembered, invoke_agent=invoke_agent
            )
            return active, handler.work
        if run.config["model"] is None:
            raise RunFailed(requests.NO_MODEL)
        loop = BuiltInLoop(
            active,
            system=system,
            specs=_specs(authority, tools, manifest),
            remembered=remembered,
            invoke_agent=invoke_agent,
        )
        return active, loop.work

    def _has_own_loop(self, host: WorkerHost, app_id: str) -> bool:
        try:
            return "agent" in host.capabilities(app_id)
        except AppError as exc:
            raise RunFailed(exc.message) from exc

    def _active(
        self,
        run: Run,
        control: Control,
        stream: streams.RunStream,
        authority: Authority,
        tools: dict[str, Tool],
    ) -> ActiveRun:
        # After a lost worker the stream knows more of what the client has read than the row.
        said = streams.streamed_text(self._platform.redis, run.id) or run.response
        return ActiveRun(
            platform=self._platform,
            host=self._host,
            run=run,
            authority=authority,
            control=control,
            stream=stream,
            tools=tools,
            transcript=list(run.transcript),
            parts=[said] if said else [],
            tokens=run.tokens,
            tokens_known=run.tokens_known,
            turn=int(run.state_data.get("turn", 0)),
        )

    def _invoker(self, session: Any, run: Run, authority: Authority) -> str:  # Any: a session
        found = None
        if run.invoker_id is not None:
            found = auth_service.find_enabled(session, run.invoker_id)
        if found is None:
            return authority.invoker.email
        return f"{found.display_name} <{found.email}>" if found.display_name else found.email

    def _complete(self, active: ActiveRun) -> str:
        with self._platform.uow() as uow:
            row = active.hold(uow)
            active.save(uow, row)
            runs.end(
                self._platform,
                uow,
                row,
                "completed",
                response=active.response,
                stream=active.stream,
            )
        log.info("agent_run_completed", run_id=str(active.run.id), turns=active.turn)
        return active.response

    def _park(self, active: ActiveRun) -> str:
        with self._platform.uow() as uow:
            row = active.hold(uow)
            active.save(uow, row)
            root = active.run.parent_run_id is None
            runs.park(uow, row, elapsed_s=active.control.elapsed_s if root else 0.0)
        raise Waiting

    def _end(
        self,
        run: Run,
        stream: streams.RunStream,
        active: ActiveRun | None,
        state: str,
        error: str,
    ) -> None:
        with self._platform.uow() as uow:
            row = runs.holding(uow.session, run.id, run.owner)
            if active is not None:
                active.save(uow, row)
            response = run.response if active is None else active.response
            runs.end(self._platform, uow, row, state, error=error, response=response, stream=stream)

    # --- sub-agents ------------------------------------------------------------------------

    def _invoker_of(self, active: ActiveRun, call_id: UUID) -> InvokeAgent:
        def invoke(app_id: str, message: str) -> JSONObject:
            return self._sub_agent(active, call_id, app_id, message)

        return invoke

    def _sub_agent(self, active: ActiveRun, call_id: UUID, app_id: str, message: str) -> JSONObject:
        """Run another app's agent inside this run; return its answer.

        Raises:
            Waiting: the sub-agent waits for a decision.
            AppError: it cannot be asked, or failed.
        """
        if active.run.parent_run_id is not None:
            raise Invalid("a sub-agent cannot invoke another agent")
        child = self._child(active, call_id, app_id, message)
        if isinstance(child, AgentRun):
            if child.error is not None:
                raise Failed(child.error)
            return {"agent": child.app_id, "response": child.response}
        try:
            response = self._work(child, active.control, self._stream(child, active.stream), active)
        except RunFailed as exc:
            raise Failed(str(exc)) from exc
        except NotHolding as exc:
            # Its agent was deleted, unless the run that asked is lost as well.
            with self._platform.uow() as uow:
                active.hold(uow)
            raise Failed(runs.CANCELLED) from exc
        except Waiting:
            with self._platform.uow() as uow:
                active.hold(uow)
                run_rows.call(uow.session, call_id).status = "pending"
            raise
        return {"agent": app_id, "response": response}

    def _child(self, active: ActiveRun, call_id: UUID, app_id: str, message: str) -> Run | AgentRun:
        """Return the sub-agent's run to work on, or its row when it has ended already."""
        with self._platform.uow() as uow:
            parent = active.hold(uow)
            row = run_rows.child_of_call(uow.session, call_id)
            if row is not None and row.state in runs.ENDED:
                return row
            if row is None:
                agent = repository.agent(uow.session, app_id)
                if agent is None:
                    raise NotFound(f"app '{app_id}' has no agent")
                session_id = requests.child_session(uow, agent, parent, message)
                row = requests.new_run(
                    uow,
                    agent,
                    session_id=session_id,
                    invoker_id=parent.invoker_id,
                    message=message,
                    source="agent",
                    parent=parent,
                    parent_call_id=call_id,
                )
            return runs.hold(self._platform, uow, row, active.run.owner)


def _system_text(run: Run, manifest: JSONObject, invoker: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        [
            run.config["prompt"],
            "",
            f"App: {run.app_id} ({manifest['name']})",
            f"Time: {now}",
            f"You work for: {invoker}",
        ]
    )


def _specs(authority: Authority, tools: dict[str, Tool], manifest: JSONObject) -> list[ToolSpec]:
    entities = registry.describe_entities(manifest.get("dataContract") or [])
    return [
        tool.spec(entities if tool.with_entities else "")
        for tool in tools.values()
        if authority.may_use(tool)
    ]
