"""Endpoints of integrations: catalog, configuration, actions, logins.

Source: REST contract part 40, sections 5.2 to 5.7.
"""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from markupsafe import escape

from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.parsing import parse_object
from app.http.schemas import MessageOut
from app.http.views import View
from app.integrations import catalog, connections, logins, schemas, service

blp = Blueprint("integrations", __name__, description="Integrations with other services")

Body = dict[str, Any]  # Any: JSON values
BASE = f"{PREFIX}/integrations"
ONE = f"{BASE}/<integration_id>"
INSTALL = "admin:apps.install"
PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>Trellis</title>"
    "<meta name=viewport content='width=device-width'><p>{text}</p></html>"
)
PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@blp.route(BASE)
class Integrations(View):
    """Installed integrations."""

    @gates.signed_in
    @blp.response(200, schemas.IntegrationOut(many=True))
    @blp.doc(summary="List installed integrations")
    def get(self) -> list[Body]:
        """Return them by name."""
        return service.listed(self.uow.session, self.platform.cipher)


@blp.route(f"{BASE}/catalog")
class Catalog(View):
    """Integrations that come with the platform."""

    @gates.signed_in
    @blp.response(200, schemas.CatalogOut(many=True))
    @blp.doc(summary="List the integrations that can be deployed")
    def get(self) -> list[Body]:
        """Return them by id."""
        return catalog.listed(self.uow.session)


@blp.route(f"{BASE}/catalog/<integration_id>/deploy")
class CatalogDeploy(View):
    """Deploying from the catalog."""

    transactional = False

    @gates.permission(INSTALL)
    @blp.response(200, schemas.DeployedOut)
    @blp.doc(summary="Deploy or upgrade an integration of the catalog")
    def post(self, integration_id: str) -> Body:
        """Return when its worker answers."""
        token = catalog.deploy(self.platform, self.actor, integration_id)
        return {"message": f"integration '{integration_id}' is deployed", "webhook_token": token}


@blp.route(f"{BASE}/catalog/<integration_id>")
class CatalogEntry(View):
    """Removing an integration, which touches the disk after its commit."""

    transactional = False

    @gates.permission(INSTALL)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Remove an integration with its connections")
    def delete(self, integration_id: str) -> Body:
        """Stop and uninstall it."""
        catalog.undeploy(self.platform, integration_id)
        return {"message": f"integration '{integration_id}' is removed"}


@blp.route(f"{ONE}/config")
class Config(View):
    """The platform-wide configuration, which is never read back."""

    transactional = False

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(
        summary="Change fields of the platform-wide configuration",
        requestBody={"content": {"application/json": {"schema": {"type": "object"}}}},
    )
    def put(self, integration_id: str) -> Body:
        """Save the given fields; others stay."""
        service.configure(
            self.platform,
            self.actor,
            integration_id=integration_id,
            values=parse_object(request.get_data()),
        )
        return {"message": "configuration saved"}


@blp.route(f"{ONE}/actions/<action_id>")
class Action(View):
    """One action."""

    transactional = False

    @gates.permission("integration:{integration_id}:{action_id}")
    @blp.response(200, description="What the action returned")
    @blp.doc(
        summary="Run an action as the caller",
        parameters=[
            {
                "name": "connection_id",
                "in": "query",
                "schema": {"type": "string", "format": "uuid"},
                "description": "one of the caller's own connections",
            },
            {
                "name": "X-App-Id",
                "in": "header",
                "schema": {"type": "string"},
                "description": "use this app's binding",
            },
        ],
        requestBody={"content": {"application/json": {"schema": {"type": "object"}}}},
    )
    def post(self, integration_id: str, action_id: str) -> Response:
        """Return the action's own result."""
        app_id = request.headers.get("X-App-Id") or None
        result = service.execute_action(
            self.platform,
            self.actor,
            integration_id=integration_id,
            action_id=action_id,
            given=parse_object(request.get_data() or b"{}"),
            connection_id=request.args.get("connection_id") or None,
            app_id=app_id,
            must_be_bound=app_id is not None,
        )
        return jsonify(result)


@blp.route(f"{ONE}/auth")
class Auth(View):
    """A user's logins at one service."""

    @gates.signed_in
    @blp.response(200, schemas.AuthStatus)
    @blp.doc(summary="Tell whether the caller is connected")
    def get(self, integration_id: str) -> Body:
        """Count the caller's connections, or those of an agent."""
        return connections.status(
            self.uow.session,
            self.actor,
            integration_id,
            agent_app_id=request.args.get("agent_app_id"),
        )


@blp.route(f"{ONE}/auth")
class Disconnect(View):
    """Giving logins up, which may call the service."""

    transactional = False

    @gates.signed_in
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete all of the caller's connections")
    def delete(self, integration_id: str) -> Body:
        """Delete them here, then tell the service."""
        with self.platform.uow() as uow:
            given_up = connections.disconnect(
                uow,
                self.platform.cipher,
                self.actor,
                integration_id=integration_id,
                agent_app_id=request.args.get("agent_app_id"),
            )
        logins.revoke(self.platform, integration_id=integration_id, given_up=given_up)
        return {"message": "disconnected"}


@blp.route(f"{ONE}/auth/start")
class AuthStart(View):
    """The start of a login."""

    transactional = False

    @gates.signed_in
    @blp.response(200, schemas.LoginStart)
    @blp.doc(summary="Begin a login at the service behind an integration")
    def post(self, integration_id: str) -> Body:
        """Return where to send the browser, or the form to show."""
        return logins.start(
            self.platform,
            self.actor,
            integration_id=integration_id,
            config_id=request.args.get("config_id") or None,
        )


@blp.route(f"{ONE}/auth/credentials")
class AuthCredentials(View):
    """A login by credentials."""

    @gates.signed_in
    @blp.arguments(schemas.CredentialsIn)
    @blp.response(200, schemas.CredentialsStored)
    @blp.doc(summary="Store the caller's credentials")
    def post(self, body: Body, integration_id: str) -> Body:
        """Keep them in the vault; they are never returned."""
        connection_id = connections.store_credentials(
            self.uow, self.platform.cipher, self.actor, integration_id=integration_id, **body
        )
        return {"message": "credentials stored", "connection_id": connection_id}


@blp.route(f"{BASE}/auth/callback")
class AuthCallback(View):
    """The end of a login in the browser; its one-time state is the credential."""

    transactional = False

    @gates.public
    @blp.response(200, description="A page for the user")
    @blp.doc(summary="Finish a login in the browser")
    def get(self) -> Response:
        """Answer a page."""
        done = logins.finish(self.platform, request.args)
        page = PAGE.format(text=escape(done.text))
        return Response(page, done.status, PAGE_HEADERS, mimetype="text/html")
