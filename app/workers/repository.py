"""SQL of deployments, wanted states, leases and process rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, exists, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.errors import NotFound
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


def _wanted() -> Select[*tuple[Any, ...]]:  # Any: the columns are the fields of ``Wanted``
    return (
        select(
            AppWorker.app_id,
            AppWorker.desired_state,
            AppWorker.generation,
            AppWorker.home_node,
            AppWorker.last_error,
            Deployment.id,
            func.coalesce(Deployment.sha256, ""),
            Deployment.entry_point,
            Deployment.runtime,
        )
        .select_from(AppWorker)
        .outerjoin(Deployment, (Deployment.app_id == AppWorker.app_id) & Deployment.is_current)
    )


def wanted(session: Session, app_id: str) -> Wanted:
    """Return what is wanted of an app; an app without a row has nothing deployed."""
    return find_wanted(session, app_id) or Wanted(app_id)


WANTED = """
SELECT w.app_id, w.desired_state, w.generation, w.home_node, w.last_error,
       d.id, coalesce(d.sha256, ''), d.entry_point, d.runtime
FROM trellis.app_workers w
LEFT JOIN trellis.deployments d ON d.app_id = w.app_id AND d.is_current
WHERE w.app_id = %s
"""


def find_wanted(session: Session, app_id: str) -> Wanted | None:
    """Return what is wanted of an app, or None when it has no row. A row proves the app exists.

    Runs for every message of calls, hence past SQLAlchemy's statement building.
    """
    row = session.connection().exec_driver_sql(WANTED, (app_id,)).one_or_none()
    if row is None:
        return None
    values: Any = tuple(row)  # Any: the fields of ``Wanted`` in order
    deployment_id = None if values[5] is None else UUID(str(values[5]))
    return replace(Wanted(*values), deployment_id=deployment_id)


def wanted_of(session: Session, app_ids: Sequence[str]) -> dict[str, Wanted]:
    """Return what is wanted of several apps."""
    rows = session.execute(_wanted().where(AppWorker.app_id.in_(app_ids)))
    found = {row[0]: Wanted(*row) for row in rows}
    return {app_id: found.get(app_id, Wanted(app_id)) for app_id in app_ids}


def deployed(session: Session) -> list[Wanted]:
    """Return every app with deployed code, in order of its id."""
    query = _wanted().where(Deployment.entry_point.is_not(None)).order_by(AppWorker.app_id)
    return [Wanted(*row) for row in session.execute(query)]


def runnable(session: Session, app_id: str) -> bool:
    """Tell whether calls of an app may be handed to a node."""
    fresh = _fresh() & (WorkerInstance.app_id == app_id)
    cooling = fresh & (
        (WorkerInstance.status == "crashed")
        & (WorkerInstance.last_crash_at > func.now() - _seconds(COOLING_S))
    )
    usable = fresh & WorkerInstance.status.in_(["running", "starting"])
    query = select(
        exists(
            select(AppWorker.app_id)
            .join(Deployment, (Deployment.app_id == AppWorker.app_id) & Deployment.is_current)
            .where(
                AppWorker.app_id == app_id,
                AppWorker.desired_state == "running",
                Deployment.entry_point.is_not(None),
            )
        )
        & (
            exists(select(WorkerInstance.node).where(usable))
            | ~exists(select(WorkerInstance.node).where(cooling))
        )
    )
    return bool(session.execute(query).scalar_one())


def _seconds(amount: float) -> Any:  # Any: an SQL interval
    return text(f"interval '{float(amount)} seconds'")


def _fresh() -> Any:  # Any: an SQL condition
    return WorkerInstance.heartbeat_at > func.now() - _seconds(INSTANCE_TTL_S)


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
        _fresh(), WorkerInstance.status.in_(["running", "starting"])
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
    query = select(WorkerInstance).where(_fresh())
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
    result: Any = session.execute(delete(WorkerInstance).where(~_fresh()))  # Any: CursorResult
    return int(result.rowcount)


def drop_abandoned(session: Session, age_s: float) -> int:
    """Delete deployments whose activation never happened and will not; return how many."""
    gone = delete(Deployment).where(
        Deployment.activated_at.is_(None),
        Deployment.created_at < func.now() - _seconds(age_s),
    )
    result: Any = session.execute(gone)  # Any: CursorResult
    return int(result.rowcount)
