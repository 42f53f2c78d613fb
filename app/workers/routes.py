"""Endpoints of deploys, workers, RPC and logs."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, request

from app.apps import service as apps_service
from app.core.actor import ANONYMOUS
from app.core.errors import Forbidden, Invalid
from app.core.ids import parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.nobody import bearer_token, brake
from app.http.parsing import parse_object
from app.http.schemas import MessageOut
from app.http.sse import event_stream
from app.http.uploads import file_part
from app.http.views import View
from app.workers import deploys, logs, public_rpc, rpc, service
from app.workers.schemas import DeployOut, StatusesOut, StatusOut

blp = Blueprint("workers", __name__, description="Deployed code, its processes, RPC and logs")


@blp.route(f"{PREFIX}/apps/<app_id>/deploy")
class Deploy(View):
    """Deploy code."""

    transactional = False

    @gates.permission("admin:apps.deploy")
    @blp.response(200, DeployOut)
    @blp.doc(
        summary="Deploy worker code",
        requestBody={
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["archive"],
                        "properties": {
                            "archive": {
                                "type": "string",
                                "format": "binary",
                                "description": "gzip-compressed tar of the backend folder",
                            }
                        },
                    }
                }
            },
        },
    )
    def post(self, app_id: str) -> dict[str, Any]:  # Any: JSON values
        """Check, store and activate an archive; returns when its process answers."""
        limit = self.platform.settings.workers.deploy_max_bytes
        with file_part(request, "archive", max_bytes=limit) as archive:
            return deploys.deploy(self.platform, self.actor, app_id=app_id, archive=archive)


@blp.route(f"{PREFIX}/apps/<app_id>/deployments")
class Deployments(View):
    """Kept deployments."""

    @gates.permission("admin:apps.deploy")
    @blp.doc(summary="List the kept deployments of an app")
    def get(self, app_id: str) -> list[dict[str, Any]]:  # Any: JSON values
        """Return the newest first."""
        return deploys.kept(self.uow.session, app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/deployments/<deployment_id>/activate")
class Activation(View):
    """A kept deployment."""

    transactional = False

    @gates.permission("admin:apps.deploy")
    @blp.response(200, DeployOut)
    @blp.doc(summary="Roll back to a kept deployment")
    def post(self, app_id: str, deployment_id: str) -> dict[str, Any]:  # Any: JSON values
        """Activate it as a deploy of its archive would."""
        found = parse_uuid(deployment_id)
        return deploys.activate_again(self.platform, app_id=app_id, deployment_id=found)


@blp.route(f"{PREFIX}/apps/<app_id>/worker/start")
class Start(View):
    """Start a worker."""

    transactional = False

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(summary="Start the worker process")
    def post(self, app_id: str) -> dict[str, str]:
        """Return after the handshake."""
        service.start(self.platform, app_id)
        return {"message": f"worker '{app_id}' started"}


@blp.route(f"{PREFIX}/apps/<app_id>/worker/stop")
class Stop(View):
    """Stop a worker."""

    transactional = False

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(summary="Stop the worker process on every node")
    def post(self, app_id: str) -> dict[str, str]:
        """Return after every process is gone."""
        service.stop(self.platform, app_id)
        return {"message": f"worker '{app_id}' stopped"}


@blp.route(f"{PREFIX}/apps/<app_id>/worker/status")
class Status(View):
    """Status of a worker."""

    @gates.signed_in
    @blp.response(200, StatusOut)
    @blp.doc(summary="Show the status of an app's worker")
    def get(self, app_id: str) -> dict[str, Any]:  # Any: JSON values
        """Return the best status over all nodes."""
        return service.status(self.uow.session, app_id)


@blp.route(f"{PREFIX}/workers")
class Workers(View):
    """Every worker."""

    @gates.admin
    @blp.response(200, StatusesOut)
    @blp.doc(summary="Show the status of every app with deployed code")
    def get(self) -> dict[str, Any]:  # Any: JSON values
        """Return a status by app id."""
        return {"workers": service.statuses(self.uow.session)}


@blp.route(f"{PREFIX}/apps/<app_id>/rpc")
class RPC(View):
    """Calls of an app's methods."""

    transactional = False
    share_token: str | None = None

    def _admit_alone(self, path: dict[str, Any]) -> None:  # Any: path converters
        token = bearer_token(self.request)
        if token is None or not apps_service.is_share_token(token):
            super()._admit_alone(path)
            return
        brake(self.platform, request)
        self.share_token, self.actor = token, ANONYMOUS

    @gates.permission("app:{app_id}:invoke", deferred=True, nobody=True)
    @blp.doc(
        summary="Call a method of an app's worker",
        requestBody={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["method"],
                        "properties": {
                            "method": {"type": "string"},
                            "params": {"description": "any JSON value, default {}"},
                            "id": {"type": "string", "description": "echoed in logs only"},
                        },
                    }
                }
            },
        },
    )
    def post(self, app_id: str) -> Response:
        """Return the handler's return value as the whole body."""
        known = self.actor.user_id is not None
        answer = self._call(app_id) if known else self._public_call(app_id)
        return Response(answer, content_type="application/json")

    def _call(self, app_id: str) -> bytes:
        def authorize() -> None:
            self.authorize(app_id=app_id)

        try:
            method, params = _call_of(self.request.get_data())
            rpc.check(app_id, method)
        except (Invalid, Forbidden):
            # Whoever may not call learns that first.
            authorize()
            raise
        call = partial(
            rpc.call, self.platform, self.actor, app_id=app_id, method=method, params=params
        )
        try:
            return call(key=f"app:{app_id}:invoke", authorize=authorize)
        except Forbidden:
            if not public_rpc.open_to_anyone(self.platform, self.actor, app_id, method):
                raise
            return call(key=rpc.NO_KEY, authorize=lambda: None)

    def _public_call(self, app_id: str) -> bytes:
        try:
            method, params = _call_of(request.get_data())
        except Invalid:
            public_rpc.refuse(self.platform, self.share_token)
            raise
        return public_rpc.call(
            self.platform,
            app_id=app_id,
            method=method,
            params=params,
            share_token=self.share_token,
        )


def _call_of(raw: bytes) -> tuple[str, Any]:  # Any: a JSON value
    """Return method and parameters of a call."""
    body = parse_object(raw)
    method = body.get("method")
    if not isinstance(method, str) or not method:
        raise Invalid("missing 'method'")
    return method, {} if body.get("params") is None else body["params"]


@blp.route(f"{PREFIX}/apps/<app_id>/logs")
class Logs(View):
    """Live logs."""

    transactional = False

    @gates.permission("app:{app_id}:logs.read")
    @blp.doc(
        summary="Stream live worker logs",
        parameters=[
            {
                "in": "query",
                "name": "tail",
                "schema": {"type": "integer", "minimum": 0, "maximum": 256, "default": 0},
            },
            {"in": "header", "name": "Last-Event-ID", "schema": {"type": "string"}},
        ],
    )
    def get(self, app_id: str) -> Response:
        """Stream entries as server-sent events."""
        tail = logs.parse_tail(request.args.get("tail"), self.platform.settings.workers.log_buffer)
        with self.platform.uow() as uow:
            apps_service.require(uow.session, app_id)
        after = logs.parse_event_id(request.headers.get("Last-Event-ID"))
        return event_stream(logs.stream(self.platform, app_id, tail=tail, after=after))
