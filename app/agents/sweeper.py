"""What happens to runs that nobody works on, though somebody should.

Source: REST contract part 40, section 1.7; ADR 0007.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import structlog

from app.agents import approvals, runs
from app.agents import run_repository as repository
from app.agents.messages import ResumeRun
from app.agents.models import AgentRun
from app.agents.tools import registry
from app.core.platform import Platform
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

SILENT_BEATS = 6
MOST_LOSSES = 3


def sweep(platform: Platform) -> None:
    """Do every duty once; each row in a transaction of its own. Safe to run anywhere, any time."""
    agents = platform.settings.agents
    silent_s = SILENT_BEATS * agents.heartbeat.total_seconds()
    with platform.uow() as uow:
        expired = repository.expired_approvals(uow.session)
        lost = repository.lost_runs(uow.session, silent_s)
        queued = repository.queued_runs(uow.session, agents.queue_wait.total_seconds())
        parked = repository.parked_without_questions(uow.session)
    for approval_id in expired:
        _guarded(platform, _expire, approval_id)
    for run_id in lost:
        _guarded(platform, _take_up, run_id)
    for run_id, too_long in queued:
        _guarded(platform, _give_up if too_long else _wake, run_id)
    for run_id in parked:
        _guarded(platform, _resume, run_id)


def _guarded(platform: Platform, duty: Callable[[Platform, UUID], None], row_id: UUID) -> None:
    try:
        duty(platform, row_id)
    except Exception:
        # One row that cannot be handled must not keep all others from it, sweep after sweep.
        log.exception("agent_sweep_failed", row_id=str(row_id))


def _expire(platform: Platform, approval_id: UUID) -> None:
    with platform.uow() as uow:
        approvals.expire(uow, approval_id)


def _resume(platform: Platform, run_id: UUID) -> None:
    with platform.uow() as uow:
        row = repository.run(uow.session, run_id, lock=True)
        if row is not None:
            runs.resume_if_answered(uow, row)


def _take_up(platform: Platform, run_id: UUID) -> None:
    """Hand a lost run on from its last saved turn, or fail it if a tool may have had effects."""
    with platform.uow() as uow:
        row = repository.run(uow.session, run_id, lock=True)
        if row is None or row.owner is None or row.state in runs.ENDED:
            return
        if row.cancel_requested:
            runs.end(platform, uow, row, "cancelled", error=runs.CANCELLED)
        elif row.state_data.get("losses", 0) < MOST_LOSSES and _may_repeat(uow, row):
            # A run that takes its worker down with it must not go round for ever.
            row.state_data = {**row.state_data, "losses": row.state_data.get("losses", 0) + 1}
            runs.requeue(uow, row)
            log.warning("agent_run_taken_up", run_id=str(run_id))
        else:
            runs.end(platform, uow, row, "failed", error=runs.LOST)
            log.warning("agent_run_given_up", run_id=str(run_id))


def _may_repeat(uow: UnitOfWork, row: AgentRun) -> bool:
    if row.state_data.get("custom"):
        return False
    family = [row.id, *(child.id for child in repository.children(uow.session, row.id))]
    return all(
        call.tool_name == "invoke_agent" or _is_read_only(call.tool_name)
        for call in repository.running_calls(uow.session, family)
    )


def _is_read_only(name: str) -> bool:
    tool = registry.BUILT_IN.get(name)
    return tool is not None and tool.read_only


def _wake(platform: Platform, run_id: UUID) -> None:
    # The message may be lost with Redis; a second one is harmless.
    platform.publisher.publish([ResumeRun(str(run_id))])


def _give_up(platform: Platform, run_id: UUID) -> None:
    wait_s = platform.settings.agents.queue_wait.total_seconds()
    with platform.uow() as uow:
        row = repository.run(uow.session, run_id, lock=True)
        if row is None or row.state != "queued":
            return
        error = f"no worker picked up the run within {wait_s:g} seconds"
        runs.end(platform, uow, row, "failed", error=error)
