"""One call of a tool: gate, supervision, execution, record.

Source: REST contract part 40, sections 1.8, 1.11 and 1.12.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlalchemy.exc import SQLAlchemyError

from app.agents import run_repository as repository
from app.agents import supervision, transcript
from app.agents.active import ActiveRun
from app.agents.control import Cancelled, Yielding
from app.agents.models import AgentApproval, AgentToolCall
from app.agents.runs import NotHolding
from app.agents.tools.base import InvokeAgent, Tool
from app.core.clock import utc_now
from app.core.errors import AppError
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

NOT_JSON = "tool arguments are not valid JSON"
REJECTED = "rejected by a user"
EXPIRED = "approval expired"
BROKEN = "tool failed: internal error"


class Waiting(Exception):
    """The call waits for a person's decision."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as the model, or an app's own agent, asks for it.

    Attributes:
        given: None when the arguments were not a JSON object.
        provider_id: the model provider's own id of the call.
    """

    call_id: UUID
    tool_name: str
    given: JSONObject | None
    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended."""

    output: Any = None  # Any: a JSON value
    error: str | None = None

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.error if self.error is not None else transcript.result_text(self.output)


def insert(uow: UnitOfWork, active: ActiveRun, asked: Asked) -> None:
    """Note that a call was asked for."""
    given = asked.given or {}
    uow.session.add(
        AgentToolCall(
            id=asked.call_id,
            run_id=active.run.id,
            session_id=active.run.session_id,
            app_id=active.run.app_id,
            provider_id=asked.provider_id,
            tool_name=asked.tool_name,
            action=supervision.action_of(asked.tool_name),
            entity=supervision.entity_of(given),
            input=given,
            status="pending",
        )
    )
    # Rows of one turn keep the model's order by their sequence number.
    uow.session.flush()


def handle(active: ActiveRun, asked: Asked, invoke_agent: Callable[[UUID], InvokeAgent]) -> Result:
    """Bring one call as far as it gets.

    Safe to repeat: a finished call gives its result again, a decided one goes on.

    Args:
        active: the run.
        asked: the call, whose row exists.
        invoke_agent: makes the function that starts a sub-agent for a call.

    Raises:
        Waiting: a person has to decide first.
    """
    active.control.check()
    with active.platform.uow() as uow:
        row = repository.call(uow.session, asked.call_id)
        approval = repository.approvals_of_calls(uow.session, [asked.call_id]).get(asked.call_id)
        interrupted = row.status == "running"
        if row.status in {"completed", "failed"}:
            return Result(row.output, row.error)
        child = repository.child_of_call(uow.session, asked.call_id)
    if approval is not None and not interrupted:
        _decided(active, asked, approval)
        refusal = _refusal_of(approval)
        if refusal is not None:
            return _finish(active, asked, Result(error=refusal), 0)
    if not interrupted and approval is None and child is None:
        begun = _begin(active, asked, invoke_agent)
        if begun is not None:
            return begun
    elif child is None:
        problem = _problem(active, asked, invoke_agent)
        if problem is not None:
            return _finish(active, asked, Result(error=problem), 0)
    return _execute(active, asked, invoke_agent)


def _decided(active: ActiveRun, asked: Asked, approval: AgentApproval) -> None:
    """Use up an approval; it is good for exactly the call it was given for.

    Raises:
        Waiting: it is still open.
    """
    if approval.status == "pending":
        raise Waiting
    if approval.status != "approved":
        return
    with active.platform.uow() as uow:
        active.hold(uow)
        locked = repository.approval(uow.session, approval.id, lock=True)
        fingerprint = transcript.call_hash(asked.tool_name, asked.given or {})
        if locked is None or locked.call_hash != fingerprint:
            log.error("approval_for_another_call", approval_id=str(approval.id))
            approval.status = "rejected"
            approval.decision_reason = "the approved call was a different one"
            return
        if asked.tool_name == "invoke_agent":
            # A sub-agent that waited itself is taken up again under the same approval.
            locked.used_at = locked.used_at or func.now()
        elif locked.used_at is not None:
            approval.status = "rejected"
            approval.decision_reason = "the approval was used already"
            return
        locked.used_at = func.now()
        repository.call(uow.session, asked.call_id).status = "running"


def _refusal_of(approval: AgentApproval) -> str | None:
    if approval.status == "approved":
        return None
    if approval.status == "expired":
        return f"rejected: {EXPIRED}"
    return f"rejected: {approval.decision_reason or REJECTED}"


def _problem(
    active: ActiveRun, asked: Asked, invoke_agent: Callable[[UUID], InvokeAgent]
) -> str | None:
    """Return why a call cannot run at all, permissions included."""
    tool = active.tools.get(asked.tool_name)
    if tool is None:
        return f"unknown tool: {asked.tool_name}"
    if asked.given is None:
        return NOT_JSON
    try:
        active.authority.require(tool)
        arguments = tool.validate(asked.given)
        tool.check(active.context(invoke_agent(asked.call_id)), arguments)
    except AppError as exc:
        return exc.message
    except SQLAlchemyError:
        return "database not available"
    except Exception:
        log.exception("tool_check_crashed", tool=asked.tool_name)
        return BROKEN
    return None


def _begin(
    active: ActiveRun, asked: Asked, invoke_agent: Callable[[UUID], InvokeAgent]
) -> Result | None:
    """Announce a call and pass it through the rules; None = it may run now."""
    problem = _problem(active, asked, invoke_agent)
    with active.platform.uow() as uow:
        active.hold(uow)
        row = repository.call(uow.session, asked.call_id)
        row.status = "running"
        active.stream.event(
            uow,
            "tool_call_started",
            {
                "call_id": str(asked.call_id),
                "tool_name": asked.tool_name,
                "input": asked.given or {},
            },
        )
        problem = problem or _over_limit(uow, active, row)
        if problem is not None:
            result = Result(error=problem)
            _complete(uow, active, row, result, 0)
            return result
        reason = supervision.consent_reason(
            active.run.config["supervision"], row.action, row.entity
        )
        if reason is None:
            return None
        row.status = "pending"
        _ask(uow, active, asked, reason)
    raise Waiting


def _over_limit(uow: UnitOfWork, active: ActiveRun, row: AgentToolCall) -> str | None:
    policies = active.run.config["supervision"]["policies"]
    limits = supervision.rate_limits(policies, row.action, row.entity)
    if limits:
        repository.lock_rates(uow.session, row.app_id)
    for limit in limits:
        count, seconds = repository.counted_calls(
            uow.session,
            row.app_id,
            window_s=limit.window_s,
            action=limit.action,
            entity=limit.entity,
        )
        if count >= limit.most:
            return f"rate limited: retry after {max(1, int(-(-seconds // 1)))}s"
    row.counted = True
    # What counts is when a call passed, not when its transaction began.
    row.created_at = func.clock_timestamp()
    uow.session.flush()
    return None


def _ask(uow: UnitOfWork, active: ActiveRun, asked: Asked, reason: str) -> None:
    life: timedelta = active.platform.settings.agents.approval_life
    run = active.run
    approval = AgentApproval(
        run_id=run.id,
        session_id=run.session_id,
        call_id=asked.call_id,
        root_app_id=run.root_app_id,
        app_id=run.app_id,
        tool_name=asked.tool_name,
        args=asked.given or {},
        call_hash=transcript.call_hash(asked.tool_name, asked.given or {}),
        reason=reason,
        invoker_id=run.invoker_id,
        expires_at=utc_now() + life,
    )
    uow.session.add(approval)
    # The event names the approval.
    uow.session.flush()
    active.stream.event(
        uow,
        "approval_required",
        {
            "approval_id": str(approval.id),
            "tool_name": asked.tool_name,
            "args": asked.given or {},
            "reason": reason,
            "app_id": run.app_id,
        },
    )


def _execute(
    active: ActiveRun, asked: Asked, invoke_agent: Callable[[UUID], InvokeAgent]
) -> Result:
    active.control.check()
    tool = active.tools[asked.tool_name]
    started = time.monotonic()
    result = _run(tool, active, asked, invoke_agent)
    return _finish(active, asked, result, round((time.monotonic() - started) * 1000))


def _run(
    tool: Tool, active: ActiveRun, asked: Asked, invoke_agent: Callable[[UUID], InvokeAgent]
) -> Result:
    context = active.context(invoke_agent(asked.call_id))
    try:
        return Result(transcript.clean(tool.run(context, tool.validate(asked.given))))
    except AppError as exc:
        return Result(error=transcript.clean(exc.message))
    except SQLAlchemyError as exc:
        log.warning("tool_failed", tool=tool.name, reason=type(exc).__name__)
        return Result(error="tool failed: database not available")
    except (Waiting, Cancelled, Yielding, NotHolding):
        raise
    except Exception:
        # A failed call never ends the run, not even one that fails by a bug or a broken schema.
        log.exception("tool_crashed", tool=tool.name)
        return Result(error=BROKEN)


def _finish(active: ActiveRun, asked: Asked, result: Result, duration_ms: int) -> Result:
    with active.platform.uow() as uow:
        active.hold(uow)
        row = repository.call(uow.session, asked.call_id)
        _complete(uow, active, row, result, duration_ms)
    return result


def _complete(
    uow: UnitOfWork, active: ActiveRun, row: AgentToolCall, result: Result, duration_ms: int
) -> None:
    output = None if result.error is not None else transcript.stored_output(result.output)
    row.status = "completed" if result.error is None else "failed"
    row.output = output
    row.error = result.error
    row.duration_ms = duration_ms
    active.stream.event(
        uow,
        "tool_call_completed",
        {
            "call_id": str(row.id),
            "tool_name": row.tool_name,
            "output": output,
            "error": result.error,
            "duration_ms": duration_ms,
        },
    )
