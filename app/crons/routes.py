"""Endpoints of crons."""

from __future__ import annotations

from typing import Any

from flask import request

from app.core.clock import rfc3339
from app.core.errors import Invalid
from app.core.paging import whole_number
from app.crons import schemas, service
from app.crons.models import CronRun, CronSchedule
from app.crons.service import NewCron
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("crons", __name__, description="Scheduled jobs")

READ = "app:{app_id}:cron.read"
WRITE = "app:{app_id}:cron.write"
TRIGGER = "app:{app_id}:cron.trigger"


def _number(name: str, *, default: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    number = whole_number(text)
    if number is None or number < 1:
        raise Invalid(f"invalid {name}")
    return min(number, most)


@blp.route(f"{PREFIX}/crons")
class AllCrons(View):
    """Crons of every app."""

    @gates.signed_in
    @blp.response(200, schemas.CronOut(many=True))
    @blp.doc(summary="List the crons of all apps the caller may read")
    def get(self) -> list[CronSchedule]:
        """Return crons by app and name."""
        return service.list_readable(self.uow.session, self.actor)


@blp.route(f"{PREFIX}/apps/<app_id>/crons")
class Crons(View):
    """Crons of an app."""

    @gates.permission(WRITE)
    @blp.arguments(schemas.CronCreate)
    @blp.response(201, schemas.CronOut)
    @blp.doc(summary="Create a scheduled cron")
    def post(self, body: dict[str, Any], app_id: str) -> CronSchedule:  # Any: JSON values
        """Create a cron owned by the caller."""
        run_as = body.pop("run_as")
        new = NewCron(**body)
        return service.create(self.uow, self.actor, app_id=app_id, new=new, run_as=run_as)

    @gates.permission(READ)
    @blp.response(200, schemas.CronOut(many=True))
    @blp.doc(summary="List an app's crons")
    def get(self, app_id: str) -> list[CronSchedule]:
        """Return crons by name."""
        return service.list_of_app(self.uow.session, self.actor, app_id=app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/crons/<cron_id>")
class Cron(View):
    """One cron."""

    @gates.permission(WRITE)
    @blp.arguments(schemas.CronPatch)
    @blp.response(200, schemas.CronOut)
    @blp.doc(summary="Update a cron")
    def patch(
        self, body: dict[str, Any], app_id: str, cron_id: str
    ) -> CronSchedule:  # Any: JSON values
        """Change the given fields."""
        return service.update(self.uow, self.actor, app_id=app_id, cron_id=cron_id, changes=body)

    @gates.permission(WRITE)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a cron")
    def delete(self, app_id: str, cron_id: str) -> dict[str, str]:
        """Delete the cron; jobs it queued stay."""
        service.delete(self.uow, self.actor, app_id=app_id, cron_id=cron_id)
        return {"message": "cron deleted"}


@blp.route(f"{PREFIX}/apps/<app_id>/crons/<cron_id>/trigger")
class CronTrigger(View):
    """A cron fired by hand."""

    @gates.permission(TRIGGER)
    @blp.response(200, schemas.CronTriggered)
    @blp.doc(summary="Fire a cron immediately")
    def post(self, app_id: str, cron_id: str) -> dict[str, int]:
        """Queue one job of the cron."""
        return {"msg_id": service.trigger(self.uow, self.actor, app_id=app_id, cron_id=cron_id)}


@blp.route(f"{PREFIX}/apps/<app_id>/crons/<cron_id>/runs")
class CronRuns(View):
    """History of a cron."""

    @gates.permission(READ)
    @blp.response(200, schemas.CronRunOut(many=True))
    @blp.doc(summary="List what a cron's ticks did, newest first")
    def get(self, app_id: str, cron_id: str) -> list[CronRun]:
        """Return runs of the last days."""
        return service.runs(
            self.uow.session,
            self.actor,
            app_id=app_id,
            cron_id=cron_id,
            limit=_number("limit", default=50, most=service.MAX_RUNS),
        )


@blp.route(f"{PREFIX}/apps/<app_id>/crons/<cron_id>/next")
class CronNext(View):
    """Future of a cron."""

    @gates.permission(READ)
    @blp.doc(summary="List the next times a cron fires")
    def get(self, app_id: str, cron_id: str) -> list[str]:
        """Return up to ``count`` times, by default 5."""
        times = service.upcoming(
            self.uow.session,
            self.actor,
            app_id=app_id,
            cron_id=cron_id,
            count=_number("count", default=5, most=service.MAX_NEXT),
        )
        return [rfc3339(moment) for moment in times]
