"""Routes of roles and permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from app.core.actor import Actor
from app.core.errors import Forbidden
from app.core.ids import UUID_TEXT, parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View
from app.rbac import service
from app.rbac.schemas import (
    AssignmentIn,
    AssignmentOut,
    AuthorityOut,
    KeyOut,
    RoleCreate,
    RoleOut,
    RolePatch,
)

blp = Blueprint("rbac", __name__, description="Roles and permissions")

Body = dict[str, Any]  # Any: what the schema loaded


def _self_or_admin(actor: Actor, path: Mapping[str, Any]) -> None:
    text = path["user_id"]
    if UUID_TEXT.fullmatch(text) is not None and UUID(text) == actor.user_id:
        return
    if not actor.is_admin:
        raise Forbidden("administrator permission required")


self_or_admin = gates.Gate("self | admin", check=_self_or_admin)


@blp.route(f"{PREFIX}/roles")
class Roles(View):
    """All roles."""

    @gates.signed_in
    @blp.response(200, RoleOut(many=True))
    @blp.doc(summary="List roles")
    def get(self) -> Any:
        """Return all roles by name."""
        return service.list_roles(self.uow.session)

    @gates.admin
    @blp.arguments(RoleCreate)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Create a role")
    def post(self, body: Body) -> Any:
        """Add a role."""
        service.create_role(self.uow, self.actor, **body)
        return {"message": f"role '{body['name']}' created"}


@blp.route(f"{PREFIX}/roles/<role_name>")
class RoleView(View):
    """One role."""

    @gates.admin
    @blp.arguments(RolePatch)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Change a role")
    def patch(self, body: Body, role_name: str) -> Any:
        """Change description, parents or keys."""
        service.update_role(self.uow, self.actor, name=role_name, changes=body)
        return {"message": f"role '{role_name}' updated"}

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a role")
    def delete(self, role_name: str) -> Any:
        """Remove a role with its assignments."""
        service.delete_role(self.uow, self.actor, name=role_name)
        return {"message": f"role '{role_name}' deleted"}


@blp.route(f"{PREFIX}/roles/assignments")
class Assignments(View):
    """Who holds what."""

    @gates.admin
    @blp.response(200, AssignmentOut(many=True))
    @blp.doc(summary="List role assignments")
    def get(self) -> Any:
        """Return all assignments, newest first."""
        return service.list_assignments(self.uow.session, self.actor)


@blp.route(f"{PREFIX}/roles/assign")
class Assign(View):
    """Giving roles."""

    @gates.admin
    @blp.arguments(AssignmentIn)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Assign a role")
    def post(self, body: Body) -> Any:
        """Give a role; a repeat is fine."""
        service.assign(self.uow, self.actor, **body)
        return {"message": f"role '{body['role']}' assigned"}


@blp.route(f"{PREFIX}/roles/revoke")
class Revoke(View):
    """Taking roles."""

    @gates.admin
    @blp.arguments(AssignmentIn)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Revoke a role")
    def post(self, body: Body) -> Any:
        """Take a role."""
        service.revoke(self.uow, self.actor, **body)
        return {"message": f"role '{body['role']}' revoked"}


@blp.route(f"{PREFIX}/permissions")
class OwnPermissions(View):
    """The caller's authority."""

    @gates.signed_in
    @blp.response(200, AuthorityOut)
    @blp.doc(summary="Show one's own roles and permissions")
    def get(self) -> Any:
        """Return the caller's roles and keys."""
        return service.authority_of(self.uow.session, self.actor.user_id or UUID(int=0))


@blp.route(f"{PREFIX}/permissions/available")
class AvailablePermissions(View):
    """Keys one may hand on."""

    @gates.signed_in
    @blp.response(200, KeyOut(many=True))
    @blp.doc(summary="List the registered keys one's permissions cover")
    def get(self) -> Any:
        """Return the registered keys the caller's permissions cover."""
        return service.available_keys(self.uow.session, self.actor)


@blp.route(f"{PREFIX}/permissions/<user_id>")
class UserPermissions(View):
    """The authority of one principal."""

    @self_or_admin
    @blp.response(200, AuthorityOut)
    @blp.doc(summary="Show the roles and permissions of a user")
    def get(self, user_id: str) -> Any:
        """Return the roles and keys of a principal; empty for an unknown one."""
        return service.authority_of(self.uow.session, parse_uuid(user_id))
