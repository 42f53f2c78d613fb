"""SQL of deployments, wanted states, leases and process rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.errors import NotFound
from app.core.statements import fetch
from app.workers.models import AppWorker, Deployment, WorkerInstance
from workers_runtime.protocol import AppState

INSTANCE_TTL_S = 15
COOLING_S = 60
KEPT_DEPLOYMENTS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What Postgres says about an app's worker.

    Attributes:
        deployment_id: the current deployment; None = nothing deployed.
        entry_point: None when the deployment has no code (agent only).
    """

    app_id: str
    desired: str = "stopped"
    generation: int = 0
    home_node: str | None = None
    last_error: str | None = None
    deployment_id: UUID | None = None
    sha256: str = ""
    entry_point: str | None = None
    runtime: str | None = None

    @property
    def has_code(self) -> bool:
        """Whether there is a program to run."""
        return self.entry_point is not None

    @property
    def should_run(self) -> bool:
        """Whether processes may exist at all."""
        return self.has_code and self.desired == "running"


def wanted(session: Session, app_id: str) -> Wanted:
    """Return what is wanted of an app; an app without a row has nothing deployed."""
    return find_wanted(session, app_id) or Wanted(app_id)


EACH_WANTED = """
SELECT w.app_id, w.desired_state, w.generation, w.home_node, w.last_error,
       d.id, coalesce(d.sha256, ''), d.entry_point, d.runtime
FROM trellis.app_workers w
LEFT JOIN trellis.deployments d ON d.app_id = w.app_id AND d.is_current
"""
WANTED = f"{EACH_WANTED} WHERE w.app_id = %(app_id)s"
WANTED_OF = f"{EACH_WANTED} WHERE w.app_id = ANY (%(app_ids)s)"
DEPLOYED = f"{EACH_WANTED} WHERE d.entry_point IS NOT NULL ORDER BY w.app_id"


def find_wanted(session: Session, app_id: str) -> Wanted | None:
    """Return what is wanted of an app, or None when it has no row. A row proves the app exists.

    Runs for every message of calls, hence past SQLAlchemy's statement building.
    """
    row = fetch(session, WANTED, {"app_id": app_id}, often=True).one_or_none()
    return None if row is None else read_wanted(row)


def read_wanted(row: Sequence[Any]) -> Wanted:  # Any: the columns of ``WANTED``
    """Return the value of a row of ``WANTED``."""
    deployment_id = None if row[5] is None else UUID(str(row[5]))
    return replace(Wanted(*row), deployment_id=deployment_id)


def wanted_of(session: Session, app_ids: Sequence[str]) -> dict[str, Wanted]:
    """Return what is wanted of several apps."""
    values = {"app_ids": list(app_ids)}
    rows = fetch(session, WANTED_OF, values)
    found = {row[0]: read_wanted(row) for row in rows}
    return {app_id: found.get(app_id, Wanted(app_id)) for app_id in app_ids}


def deployed(session: Session) -> list[Wanted]:
    """Return every app with deployed code, in order of its id."""
    return [read_wanted(row) for row in fetch(session, DEPLOYED, ())]


RUNNABLE = f"""
WITH instance AS (
    SELECT i.status, i.last_crash_at FROM trellis.worker_instances i
    WHERE i.app_id = %(app_id)s AND i.heartbeat_at > now() - interval '{INSTANCE_TTL_S} s'
)
SELECT EXISTS (
    SELECT FROM trellis.app_workers w
    JOIN trellis.deployments d ON d.app_id = w.app_id AND d.is_current
    WHERE w.app_id = %(app_id)s AND w.desired_state = 'running' AND d.entry_point IS NOT NULL
) AND (
    EXISTS (SELECT FROM instance WHERE status IN ('running', 'starting'))
    OR NOT EXISTS (
        SELECT FROM instance
        WHERE status = 'crashed' AND last_crash_at > now() - interval '{COOLING_S} s'
    )
)
"""  # noqa: S608 - put together from constants


def runnable(session: Session, app_id: str) -> bool:
    """Tell whether calls of an app may be handed to a node.

    Runs for every turn, hence past SQLAlchemy's statement building.
    """
    found = fetch(session, RUNNABLE, {"app_id": app_id}, often=True)
    return bool(found.scalar_one())


FRESH = WorkerInstance.heartbeat_at > func.now() - text(f"interval '{INSTANCE_TTL_S} s'")

# --- deployments -----------------------------------------------------------------------------


def add_deployment(session: Session, **values: Any) -> None:  # Any: columns of ``Deployment``
    """Store one archive, not current yet."""
    session.execute(insert(Deployment).values(**values))


def deployment(session: Session, deployment_id: UUID) -> Deployment | None:
    """Return a deployment without its archive."""
    return session.get(Deployment, deployment_id)


def deployments(session: Session, app_id: str) -> list[Deployment]:
    """Return an app's kept deployments that were current once, newest first."""
    query = (
        select(Deployment)
        .where(Deployment.app_id == app_id, Deployment.activated_at.is_not(None))
        .order_by(Deployment.created_at.desc(), Deployment.id)
    )
    return list(session.scalars(query))


def archive(session: Session, deployment_id: UUID) -> bytes | None:
    """Return the archive of a deployment."""
    return session.scalar(select(Deployment.archive).where(Deployment.id == deployment_id))


def make_current(session: Session, app_id: str, deployment_id: UUID) -> None:
    """Make one deployment the app's current one and forget the oldest.

    Raises:
        NotFound: it was given up meanwhile.
    """
    row = select(Deployment.id).where(Deployment.id == deployment_id).with_for_update()
    if session.scalar(row) is None:
        raise NotFound("the deployment is gone")
    session.execute(
        update(Deployment)
        .where(Deployment.app_id == app_id, Deployment.is_current, Deployment.id != deployment_id)
        .values(is_current=False)
    )
    session.execute(
        update(Deployment)
        .where(Deployment.id == deployment_id)
        .values(is_current=True, activated_at=func.now())
    )
    kept = (
        select(Deployment.id)
        .where(Deployment.app_id == app_id, Deployment.activated_at.is_not(None))
        .order_by(Deployment.is_current.desc(), Deployment.activated_at.desc())
        .limit(KEPT_DEPLOYMENTS)
    )
    session.execute(
        delete(Deployment).where(
            Deployment.app_id == app_id,
            Deployment.activated_at.is_not(None),
            Deployment.id.not_in(kept),
        )
    )


def drop_deployment(session: Session, deployment_id: UUID) -> None:
    """Forget a deployment that never became current."""
    session.execute(
        delete(Deployment).where(Deployment.id == deployment_id, Deployment.activated_at.is_(None))
    )


# --- wanted states ---------------------------------------------------------------------------


def set_desired(
    session: Session, app_id: str, desired: str, *, raise_generation: bool = True
) -> int:
    """Set what is wanted of an app and return its generation. Locks the app's row."""
    step = 1 if raise_generation else 0
    insertion = upsert(AppWorker).values(app_id=app_id, desired_state=desired, generation=1)
    return session.execute(
        insertion.on_conflict_do_update(
            index_elements=[AppWorker.app_id],
            set_={
                "desired_state": desired,
                "generation": AppWorker.generation + step,
                "last_error": None,
            },
        ).returning(AppWorker.generation)
    ).scalar_one()


def set_last_error(session: Session, app_id: str, error: str) -> None:
    """Remember why an app did not start; its wanted state stays."""
    insertion = upsert(AppWorker).values(app_id=app_id, last_error=error)
    session.execute(
        insertion.on_conflict_do_update(
            index_elements=[AppWorker.app_id], set_={"last_error": error}
        )
    )


def raise_generations_of_running(session: Session) -> list[str]:
    """Raise the generation of every app with a live process; return those apps."""
    live = select(WorkerInstance.app_id).where(
        FRESH, WorkerInstance.status.in_(["running", "starting"])
    )
    rows = session.execute(
        update(AppWorker)
        .where(AppWorker.app_id.in_(live), AppWorker.desired_state == "running")
        .values(generation=AppWorker.generation + 1)
        .returning(AppWorker.app_id)
    )
    return sorted(rows.scalars())


def forget(session: Session, app_id: str) -> None:
    """Delete everything about an app's worker."""
    for model in (Deployment, AppWorker, WorkerInstance):
        session.execute(delete(model).where(model.app_id == app_id))


# --- home leases -----------------------------------------------------------------------------

RENEW = text("""
UPDATE trellis.app_workers SET lease_expires_at = now() + make_interval(secs => :lease_s)
WHERE home_node = :node AND desired_state = 'running' RETURNING app_id
""")

TAKE = text("""
UPDATE trellis.app_workers SET home_node = :node,
    lease_expires_at = now() + make_interval(secs => :lease_s)
WHERE app_id IN (
    SELECT w.app_id FROM trellis.app_workers w
    JOIN trellis.deployments d ON d.app_id = w.app_id AND d.is_current
    WHERE w.desired_state = 'running' AND d.entry_point IS NOT NULL
      AND (w.home_node IS NULL OR w.lease_expires_at IS NULL OR w.lease_expires_at < now())
    ORDER BY w.app_id LIMIT :most FOR UPDATE OF w SKIP LOCKED)
RETURNING app_id
""")

TAKE_ONE = text("""
UPDATE trellis.app_workers SET home_node = :node,
    lease_expires_at = now() + make_interval(secs => :lease_s)
WHERE app_id = :app_id AND desired_state = 'running'
  AND (home_node IS NULL OR lease_expires_at IS NULL OR lease_expires_at < now()
       OR home_node = :node)
RETURNING app_id
""")

RELEASE = text("""
UPDATE trellis.app_workers SET home_node = NULL, lease_expires_at = NULL WHERE home_node = :node
""")


def renew_leases(session: Session, node: str, lease_s: float) -> set[str]:
    """Renew the leases a node holds; return the apps whose home it is."""
    return set(session.execute(RENEW, {"node": node, "lease_s": lease_s}).scalars())


def take_leases(session: Session, node: str, lease_s: float, most: int) -> set[str]:
    """Make a node the home of apps that have none; rows another node is taking are left alone."""
    values = {"node": node, "lease_s": lease_s, "most": most}
    return set(session.execute(TAKE, values).scalars())


def take_lease(session: Session, app_id: str, node: str, lease_s: float) -> bool:
    """Make a node an app's home unless a live one has it; tell whether it is now."""
    values = {"app_id": app_id, "node": node, "lease_s": lease_s}
    return session.execute(TAKE_ONE, values).one_or_none() is not None


def release_leases(session: Session, node: str) -> None:
    """Give up every home of a node that ends."""
    session.execute(RELEASE, {"node": node})


# --- process rows ----------------------------------------------------------------------------


def instances(session: Session, app_id: str | None = None) -> list[WorkerInstance]:
    """Return the rows that live nodes keep, of one app or of all."""
    query = select(WorkerInstance).where(FRESH)
    if app_id is not None:
        query = query.where(WorkerInstance.app_id == app_id)
    return list(session.scalars(query))


def report(session: Session, node: str, states: Sequence[AppState]) -> None:
    """Write the states of a node's apps; a stopped app without an error has no row."""
    gone = [state.app_id for state in states if _nothing_to_tell(state)]
    if gone:
        session.execute(
            delete(WorkerInstance).where(
                WorkerInstance.node == node, WorkerInstance.app_id.in_(gone)
            )
        )
    rows = [_instance(node, state) for state in states if not _nothing_to_tell(state)]
    if not rows:
        return
    insertion = upsert(WorkerInstance).values(rows)
    names = [name for name in rows[0] if name not in {"node", "app_id", "slot"}]
    session.execute(
        insertion.on_conflict_do_update(
            index_elements=["node", "app_id", "slot"],
            set_={name: insertion.excluded[name] for name in names} | {"heartbeat_at": func.now()},
        )
    )


def _nothing_to_tell(state: AppState) -> bool:
    return state.status == "stopped" and state.last_error is None


def _instance(node: str, state: AppState) -> dict[str, Any]:  # Any: column values
    return {
        "node": node,
        "app_id": state.app_id,
        "slot": 0,
        "pid": state.pid,
        "status": state.status.value,
        "deployment_id": UUID(state.deployment_id) if state.deployment_id else None,
        "generation": state.generation,
        "started_at": _moment(state.started_at),
        "restarts": state.restarts,
        "last_crash_at": _moment(state.last_crash_at),
        "last_error": state.last_error,
        "sandbox": state.sandbox or None,
    }


def _moment(unix: float | None) -> Any:  # Any: an SQL expression or None
    return None if unix is None else func.to_timestamp(unix)


def beat(session: Session, node: str) -> None:
    """Tell that a node's rows are still true."""
    session.execute(
        update(WorkerInstance).where(WorkerInstance.node == node).values(heartbeat_at=func.now())
    )


def drop_node(session: Session, node: str) -> None:
    """Delete a node's rows, at its start and at its end."""
    session.execute(delete(WorkerInstance).where(WorkerInstance.node == node))


def sweep(session: Session) -> int:
    """Delete the rows of dead nodes; return how many."""
    result: Any = session.execute(delete(WorkerInstance).where(~FRESH))  # Any: CursorResult
    return int(result.rowcount)


def drop_abandoned(session: Session, age_s: float) -> int:
    """Delete deployments whose activation never happened and will not; return how many."""
    gone = delete(Deployment).where(
        Deployment.activated_at.is_(None),
        Deployment.created_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, age_s),
    )
    result: Any = session.execute(gone)  # Any: CursorResult
    return int(result.rowcount)
