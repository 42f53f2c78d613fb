"""Schema sync: read the tables, plan, apply.

Source: REST contract part 20, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.errors import Conflict, NotReady
from app.data import guards, live, planner
from app.data.contract import Entity
from app.data.execution import run
from app.data.plan import Plan, Step

SCHEMA_COMMENT = "trellis:app"
LOCK_TIMEOUT = "10s"
BATCH = 200  # statements in one round trip
LOCKED = "55P03"
APP_ROLE_EXISTS = text("SELECT 1 FROM pg_roles WHERE rolname = :role")


def plan(session: Session, app_id: str, entities: Mapping[str, Entity]) -> Plan:
    """Return what an install of these entities would change."""
    schema = live.read(session, app_id)
    _check_owner(app_id, schema.comment)
    constants = planner.wanted_defaults(entities)
    texts = live.evaluate(session, list(constants.values()))
    defaults = dict(zip(constants, texts, strict=True))
    return planner.plan(app_id, entities, schema, defaults)


def apply(session: Session, app_id: str, entities: Mapping[str, Entity]) -> None:
    """Bring the app's tables in step with its entities.

    Locks: every table that changes, exclusively, until the transaction ends; gives up after
    10 s of waiting for one.

    Raises:
        Conflict: the rows present forbid a change.
        Invalid: Postgres refuses SQL the app wrote.
        NotReady: other transactions keep a table busy.
    """
    session.execute(
        text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": LOCK_TIMEOUT}
    )
    ensure_schema(session, app_id)
    for batch in plan(session, app_id, entities).batches(BATCH):
        _apply(session, app_id, batch)
    if session.scalar(APP_ROLE_EXISTS, {"role": guards.APP_ROLE}):
        for statement in guards.grant_statements(app_id, list(entities)):
            run(session, statement)


def ensure_schema(session: Session, app_id: str) -> None:
    """Create the app's schema unless it is there.

    Raises:
        Conflict: a schema of that name exists that no app made.
    """
    comment = session.execute(live.SCHEMA, {"schema": app_id}).all()
    if comment:
        _check_owner(app_id, comment[0][0] or "")
        return
    name = sql.Identifier(app_id)
    run(session, sql.SQL("CREATE SCHEMA {}").format(name))
    mark = sql.Literal(SCHEMA_COMMENT)
    run(session, sql.SQL("COMMENT ON SCHEMA {} IS {}").format(name, mark))


def drop_schema(session: Session, app_id: str) -> None:
    """Drop the app's schema with everything in it; no-op if no app made it."""
    comment = session.execute(live.SCHEMA, {"schema": app_id}).scalar()
    if comment == SCHEMA_COMMENT:
        run(session, sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(app_id)))


def _check_owner(app_id: str, comment: str | None) -> None:
    if comment is not None and comment != SCHEMA_COMMENT:
        raise Conflict(f"schema '{app_id}' exists and does not belong to an app")


def _apply(session: Session, app_id: str, batch: list[Step]) -> None:
    """Run steps in one round trip; when that fails, one by one, to see which it was."""
    if len(batch) > 1:
        try:
            with session.begin_nested():
                run(session, sql.SQL(";\n").join(step.statement for step in batch))
                return
        except DBAPIError as exc:
            if getattr(exc.orig, "pgcode", None) == LOCKED:
                raise busy(app_id) from exc
    for step in batch:
        _apply_one(session, app_id, step)


def busy(app_id: str) -> NotReady:
    """Return the error of an install that waited too long for a table."""
    return NotReady(f"tables of app '{app_id}' are busy, try again later")


def _apply_one(session: Session, app_id: str, step: Step) -> None:
    try:
        run(session, step.statement)
    except DBAPIError as exc:
        state = getattr(exc.orig, "pgcode", None) or ""
        if state == LOCKED:
            raise busy(app_id) from exc
        message = getattr(getattr(exc.orig, "diag", None), "message_primary", None) or ""
        error = step.failure.error(state, message)
        if error is None:
            raise
        raise error from exc
