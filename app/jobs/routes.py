"""Endpoints of jobs. Answers that Postgres put together are passed on as they are."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from app.core.errors import Invalid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View
from app.jobs import intake, schemas, service
from app.jobs.service import Enqueued, State

blp = Blueprint("jobs", __name__, description="Background jobs")

INVOKE = "app:{app_id}:invoke"
DEFAULT_LIMIT = 100
STATES = {str(state): state for state in State if state is not State.ACTIVE}


def _json(text: str) -> Response:
    return Response(text, content_type="application/json")


def _wanted_state() -> State:
    text = request.args.get("state")
    if text is None:
        archived = request.args.get("archived") == "true"
        return State.ARCHIVED if archived else State.ACTIVE
    if text not in STATES:
        raise Invalid("state must be 'queued', 'running', 'archived' or 'failed'")
    return STATES[text]


@blp.route(f"{PREFIX}/apps/<app_id>/jobs")
class Jobs(View):
    """Jobs of an app."""

    @gates.permission(INVOKE, by_memory=True)
    @blp.arguments(schemas.JobEnqueue)
    @blp.response(201, schemas.JobEnqueued)
    @blp.alt_response(200, schema=schemas.JobEnqueued)
    @blp.doc(summary="Enqueue a background job")
    def post(self, body: dict[str, Any], app_id: str) -> tuple[Enqueued, int]:  # Any: JSON values
        """Put one job on the queue; 200 when its idempotency key is known."""
        if self.by_memory:
            enqueued = intake.enqueue(self.platform.uow, self.actor, app_id=app_id, **body)
        else:
            enqueued = service.enqueue(self.uow, self.actor, app_id=app_id, **body)
        return enqueued, 201 if enqueued.created else 200

    @gates.permission(INVOKE)
    @blp.alt_response(200, schema=schemas.JobOut(many=True))
    @blp.doc(
        summary="List jobs, newest first",
        parameters=[
            {"in": "query", "name": name, "schema": {"type": kind}}
            for name, kind in (
                ("archived", "boolean"),
                ("state", "string"),
                ("limit", "integer"),
                ("before", "integer"),
            )
        ],
    )
    def get(self, app_id: str) -> Response:
        """Return active jobs, or those of another state."""
        limit = schemas.parse_limit(
            request.args.get("limit"), default=DEFAULT_LIMIT, most=service.MAX_LIMIT
        )
        before = request.args.get("before")
        return _json(
            service.page(
                self.uow.session,
                app_id=app_id,
                state=_wanted_state(),
                limit=limit,
                before=None if before is None else schemas.parse_msg_id(before),
            )
        )


@blp.route(f"{PREFIX}/apps/<app_id>/jobs/batch")
class JobBatches(View):
    """Many jobs at once."""

    @gates.permission(INVOKE)
    @blp.arguments(schemas.JobBatch)
    @blp.response(201, schemas.JobsEnqueued)
    @blp.doc(summary="Enqueue up to 1000 jobs in one transaction")
    def post(self, body: dict[str, Any], app_id: str) -> dict[str, list[int]]:  # Any: JSON values
        """Put all jobs on the queue, or none."""
        ids = service.enqueue_batch(self.uow, self.actor, app_id=app_id, jobs=body["jobs"])
        return {"msg_ids": ids}


@blp.route(f"{PREFIX}/apps/<app_id>/jobs/retry")
class FailedJobs(View):
    """The dead letters of an app."""

    @gates.permission(INVOKE)
    @blp.response(200, schemas.JobsEnqueued)
    @blp.doc(summary="Put every failed job back on the queue")
    def post(self, app_id: str) -> dict[str, list[int]]:
        """Revive all dead letters."""
        return {"msg_ids": service.retry(self.uow, app_id=app_id)}


@blp.route(f"{PREFIX}/apps/<app_id>/jobs/<msg_id>")
class Job(View):
    """One job."""

    @gates.permission(INVOKE)
    @blp.alt_response(200, schema=schemas.JobDetailOut)
    @blp.doc(summary="Show one job in any state")
    def get(self, app_id: str, msg_id: str) -> Response:
        """Return the job."""
        number = schemas.parse_msg_id(msg_id)
        return _json(service.show(self.uow.session, app_id=app_id, msg_id=number))

    @gates.permission(INVOKE)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Cancel a job")
    def delete(self, app_id: str, msg_id: str) -> dict[str, str]:
        """Move the job to the dead letters; the result of a running one is ignored."""
        service.cancel(self.uow, app_id=app_id, msg_id=schemas.parse_msg_id(msg_id))
        return {"message": f"job {msg_id} cancelled"}


@blp.route(f"{PREFIX}/apps/<app_id>/jobs/<msg_id>/retry")
class FailedJob(View):
    """One dead letter."""

    @gates.permission(INVOKE)
    @blp.response(200, schemas.JobEnqueued)
    @blp.doc(summary="Put a failed job back on the queue")
    def post(self, app_id: str, msg_id: str) -> dict[str, int]:
        """Revive the job."""
        number = schemas.parse_msg_id(msg_id)
        service.retry(self.uow, app_id=app_id, msg_id=number)
        return {"msg_id": number}
