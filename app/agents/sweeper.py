"""What happens to runs that nobody works on, though somebody should.

Source: REST contract part 40, section 1.7; ADR 0007.
"""

from __future__ import annotations

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
        with platform.uow() as uow:
            approvals.expire(uow, approval_id)
    for run_id in lost:
        _take_up(platform, run_id)
    for run_id, _since, too_long in queued:
        _wake_or_fail(platform, run_id, too_long=too_long)
    for run_id in parked:
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


def _wake_or_fail(platform: Platform, run_id: UUID, *, too_long: bool) -> None:
    wait_s = platform.settings.agents.queue_wait.total_seconds()
    if not too_long:
        # The message may be lost with Redis; a second one is harmless.
        platform.publisher.publish([ResumeRun(str(run_id))])
        return
    with platform.uow() as uow:
        row = repository.run(uow.session, run_id, lock=True)
        if row is None or row.state != "queued":
            return
        error = f"no worker picked up the run within {wait_s:g} seconds"
        runs.end(platform, uow, row, "failed", error=error)
