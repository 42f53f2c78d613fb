"""App endpoints.

Source: REST contract part 20, section 2.
"""

from __future__ import annotations

from flask import request

from app.apps import service
from app.apps.schemas import AppDetailOut, AppSummaryOut, DriftOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.parsing import parse_json
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("apps", __name__, description="Installed apps")


@blp.route(f"{PREFIX}/apps")
class Apps(View):
    """All apps."""

    @gates.signed_in
    @blp.response(200, AppSummaryOut(many=True))
    @blp.doc(summary="List installed apps")
    def get(self) -> list[service.AppSummary]:
        """Return the apps by name."""
        return service.list_apps(self.uow.session, app_type=request.args.get("type"))

    @gates.in_service("admin:apps.install | platform:apps.create")
    @blp.response(200, MessageOut)
    @blp.doc(summary="Install or update an app from its manifest")
    def post(self) -> dict[str, str]:
        """Install the app of the manifest in the body."""
        app_id = service.install(self.uow, self.actor, parse_json(request.get_data()))
        return {"message": f"app '{app_id}' installed"}


@blp.route(f"{PREFIX}/apps/schema/verify")
class SchemaVerify(View):
    """The dry run of an install."""

    @gates.signed_in
    @blp.response(200, DriftOut)
    @blp.doc(summary="Tell what installing a manifest would change in the tables")
    def post(self) -> service.Drift:
        """Return the differences."""
        return service.verify(self.uow.session, parse_json(request.get_data()))


@blp.route(f"{PREFIX}/apps/<app_id>")
class AppView(View):
    """One app."""

    @gates.signed_in
    @blp.response(200, AppDetailOut)
    @blp.doc(summary="Get an app")
    def get(self, app_id: str) -> service.AppDetail:
        """Return the app with its stored data contract."""
        return service.detail(self.uow.session, app_id)


@blp.route(f"{PREFIX}/apps/<app_id>")
class AppRemoval(View):
    """Uninstalling, which touches the disk after its commit."""

    transactional = False

    @gates.permission("admin:apps.install")
    @blp.response(200, MessageOut)
    @blp.doc(summary="Uninstall an app with everything it stored")
    def delete(self, app_id: str) -> dict[str, str]:
        """Uninstall the app."""
        with self.platform.uow() as uow:
            service.uninstall(uow, app_id)
        service.remove_directories(self.platform.settings.data_dir, app_id)
        return {"message": f"app '{app_id}' uninstalled"}
