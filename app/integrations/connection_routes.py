"""Endpoints of connections, named configurations and bindings; all beyond the base.

Source: REST contract part 40, sections 5.4 and 5.6.
"""

from __future__ import annotations

from typing import Any

from flask import request

from app.core.errors import Invalid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View
from app.integrations import config, connections, installed, schemas
from app.integrations.models import AppIntegration, IntegrationConnection
from app.integrations.routes import ONE

blp = Blueprint("connections", __name__, description="Connections and bindings of integrations")

Body = dict[str, Any]  # Any: JSON values


@blp.route(f"{ONE}/configs")
class Configs(View):
    """Named configurations."""

    @gates.signed_in
    @blp.response(200, schemas.ConfigOut(many=True))
    @blp.doc(summary="List the named configurations of an integration")
    def get(self, integration_id: str) -> list[Body]:
        """Return them without their values, oldest first."""
        found = installed.require(self.uow.session, integration_id)
        return config.listed(self.uow.session, self.platform.cipher, found)

    @gates.admin
    @blp.arguments(schemas.ConfigCreate)
    @blp.response(200, schemas.ConfigCreated)
    @blp.doc(summary="Add a named configuration")
    def post(self, body: Body, integration_id: str) -> Body:
        """Store it."""
        found = installed.require(self.uow.session, integration_id)
        made = config.create(
            self.uow,
            self.platform.cipher,
            found,
            label=body["label"],
            values=body["credentials"],
        )
        return {"id": made, "label": body["label"]}


@blp.route(f"{ONE}/configs/<config_id>")
class NamedConfig(View):
    """One named configuration."""

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a named configuration")
    def delete(self, integration_id: str, config_id: str) -> Body:
        """Delete it unless connections use it."""
        found = installed.require(self.uow.session, integration_id)
        config.delete(self.uow, found, config_id=config_id)
        return {"message": "configuration deleted"}


@blp.route(f"{ONE}/auth/delegate")
class AuthDelegate(View):
    """Lending a connection to an agent."""

    @gates.admin
    @blp.arguments(schemas.Delegate)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Lend the caller's connection to an agent")
    def post(self, body: Body, integration_id: str) -> Body:
        """Lend the oldest active one."""
        connections.delegate(self.uow, self.actor, integration_id=integration_id, **body)
        return {"message": "delegated"}


@blp.route(f"{ONE}/connections")
class Connections(View):
    """The caller's connections."""

    @gates.signed_in
    @blp.response(200, schemas.ConnectionOut(many=True))
    @blp.doc(summary="List the caller's connections")
    def get(self, integration_id: str) -> list[IntegrationConnection]:
        """Return them, oldest first."""
        return connections.listed(self.uow.session, self.actor, integration_id)


@blp.route(f"{ONE}/connections/<connection_id>")
class Connection(View):
    """One connection of the caller."""

    @gates.signed_in
    @blp.arguments(schemas.ConnectionPatch)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Rename a connection")
    def patch(self, body: Body, integration_id: str, connection_id: str) -> Body:
        """Change its label."""
        connections.relabel(
            self.uow,
            self.actor,
            integration_id=integration_id,
            connection_id=connection_id,
            **body,
        )
        return {"message": "connection updated"}

    @gates.signed_in
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a connection")
    def delete(self, integration_id: str, connection_id: str) -> Body:
        """Delete it with its credentials and bindings."""
        connections.delete(
            self.uow, self.actor, integration_id=integration_id, connection_id=connection_id
        )
        return {"message": "connection deleted"}


@blp.route(f"{ONE}/connected-users")
class ConnectedUsers(View):
    """Who is connected."""

    @gates.admin
    @blp.response(200, description="An array of user ids")
    @blp.doc(summary="List the users with connections")
    def get(self, integration_id: str) -> list[str]:
        """Return their ids."""
        return connections.connected_users(self.uow.session, integration_id)


@blp.route(f"{PREFIX}/apps/<app_id>/integrations")
class Bindings(View):
    """Bindings of integrations to an app."""

    @gates.signed_in
    @blp.response(200, schemas.BindingOut(many=True))
    @blp.doc(summary="List an app's integrations")
    def get(self, app_id: str) -> list[AppIntegration]:
        """Return app-wide bindings and the caller's own; an administrator sees all."""
        return connections.bindings(self.uow.session, self.actor, app_id)

    @gates.in_service("signed-in; app-wide: integration:{id}:manage")
    @blp.arguments(schemas.BindingIn)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Bind an integration to an app")
    def post(self, body: Body, app_id: str) -> Body:
        """Make or change a binding."""
        connections.bind(
            self.uow,
            self.actor,
            app_id=app_id,
            integration_id=body["integration_id"],
            connection_id=body["connection_id"],
            personal=_personal(body["scope"]),
        )
        return {"message": "bound"}


@blp.route(f"{PREFIX}/apps/<app_id>/integrations/<integration_id>")
class Binding(View):
    """One binding."""

    @gates.in_service("signed-in; app-wide: integration:{integration_id}:manage")
    @blp.response(200, MessageOut)
    @blp.doc(summary="Remove a binding")
    def delete(self, app_id: str, integration_id: str) -> Body:
        """Delete the caller's own binding or the app-wide one."""
        connections.unbind(
            self.uow,
            self.actor,
            app_id=app_id,
            integration_id=integration_id,
            personal=_personal(request.args.get("scope")),
        )
        return {"message": "unbound"}


def _personal(scope: str | None) -> bool:
    if scope not in {None, "user", "app"}:
        raise Invalid("scope must be 'user' or 'app'")
    return scope == "user"
