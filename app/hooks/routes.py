"""Hook endpoints.

Source: REST contract part 20, section 9.
"""

from __future__ import annotations

from flask import request

from app.hooks import service
from app.hooks.models import Hook
from app.hooks.schemas import HookOut, OkOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.parsing import parse_object
from app.http.views import View

blp = Blueprint("hooks", __name__, description="Hooks on entities")


@blp.route(f"{PREFIX}/apps/<app_id>/hooks")
class Hooks(View):
    """Hooks that watch an app."""

    @gates.permission("app:{app_id}:hook.read")
    @blp.response(200, HookOut(many=True))
    @blp.doc(summary="List hooks")
    def get(self, app_id: str) -> list[Hook]:
        """Return the hooks, newest first."""
        return service.list_hooks(
            self.uow.session,
            app_id,
            entity=request.args.get("entity"),
            operation=request.args.get("operation"),
        )

    @gates.permission("app:{app_id}:hook.write")
    @blp.response(200, HookOut)
    @blp.doc(summary="Create a hook")
    def post(self, app_id: str) -> Hook:
        """Store a hook owned by the caller."""
        body = parse_object(request.get_data())
        return service.create(self.uow, self.actor, app_id=app_id, body=body)


@blp.route(f"{PREFIX}/apps/<app_id>/hooks/<hook_id>")
class HookView(View):
    """One hook."""

    @gates.permission("app:{app_id}:hook.read")
    @blp.response(200, HookOut)
    @blp.doc(summary="Get a hook")
    def get(self, app_id: str, hook_id: str) -> Hook:
        """Return the hook."""
        return service.get(self.uow.session, app_id=app_id, hook_id=hook_id)

    @gates.permission("app:{app_id}:hook.write")
    @blp.response(200, OkOut)
    @blp.doc(summary="Delete a hook")
    def delete(self, app_id: str, hook_id: str) -> dict[str, bool]:
        """Delete the hook."""
        service.delete(self.uow, app_id=app_id, hook_id=hook_id)
        return {"ok": True}
