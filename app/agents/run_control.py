"""What people may do with a run while it goes on.

Source: REST contract part 40, section 1.7.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.agents import run_repository as repository
from app.agents import runs
from app.agents.models import AgentRun
from app.core.actor import Actor
from app.core.errors import Conflict, NotFound
from app.core.ids import parse_uuid
from app.core.platform import Platform
from app.core.uow import UnitOfWork

MANAGE = "admin:agents.manage"


def visible(
    session: Session, actor: Actor, *, app_id: str, run_id: str, lock: bool = False
) -> AgentRun:
    """Return a run for its invoker or a manager of agents.

    Raises:
        Invalid: the id is not spelled like one.
        NotFound: no such run of this agent, or somebody else's.
    """
    found = repository.run(session, parse_uuid(run_id), lock=lock)
    if found is None or found.app_id != app_id:
        raise NotFound("run not found")
    if found.invoker_id != actor.user_id and not actor.can(MANAGE):
        raise NotFound("run not found")
    return found


def cancel(platform: Platform, uow: UnitOfWork, actor: Actor, *, app_id: str, run_id: str) -> None:
    """Ask a run to end. A sub-agent's run is ended with the run that asked for it.

    Raises:
        NotFound: no such run.
        Conflict: it has ended.
    """
    found = visible(uow.session, actor, app_id=app_id, run_id=run_id)
    root_id = found.parent_run_id or found.id
    row = repository.run(uow.session, root_id, lock=True)
    if row is None or row.state in runs.ENDED:
        raise Conflict("run already finished")
    runs.request_cancel(platform, uow, row)
