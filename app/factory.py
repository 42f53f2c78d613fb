"""The Flask app."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import Flask, Response, request
from flask_cors import CORS
from flask_jwt_extended import JWTManager
from werkzeug.middleware.proxy_fix import ProxyFix

from app.agents import llm_routes, mcp_routes
from app.agents import routes as agents_routes
from app.apps import routes as apps_routes
from app.apps import share_routes
from app.audit import routes as audit_routes
from app.auth import routes as auth_routes
from app.auth.magic_links import routes as magic_links_routes
from app.auth.oidc import routes as oidc_routes
from app.auth.service_accounts import routes as service_accounts_routes
from app.channels import routes as channels_routes
from app.core.platform import Platform
from app.crons import routes as crons_routes
from app.data import browser_routes
from app.data import routes as data_routes
from app.files import routes as files_routes
from app.files import storage_routes
from app.hooks import routes as hooks_routes
from app.hooks import webhook_routes
from app.http import errors, health
from app.http.api import Api, make_api
from app.http.rules import MatchingRule
from app.http.views import ACTOR_LOADER, ACTOR_RECALLER, PLATFORM
from app.integrations import connection_routes
from app.integrations import routes as integrations_routes
from app.jobs import routes as jobs_routes
from app.rbac import routes as rbac_routes
from app.rbac import service as rbac_service
from app.secrets import routes as secrets_routes
from app.workers import routes as workers_routes

LOOPBACK_ORIGINS = r"http://(localhost|127\.0\.0\.1)(:\d+)?\Z"
F = TypeVar("F", bound=Callable[..., Any])  # Any: view functions of all kinds


class App(Flask):
    """Flask, without what none of our views needs."""

    url_rule_class = MatchingRule

    def ensure_sync(self, func: F) -> F:
        """Return a view as it is, for none is a coroutine. Flask looks, several times a request."""
        return func


def create_app(platform: Platform) -> Flask:
    """Return the web application on an assembled platform."""
    app = App("trellis", static_folder=None)
    http = platform.settings.http
    app.config.update(
        MAX_CONTENT_LENGTH=http.max_body_bytes,
        JWT_SECRET_KEY=platform.settings.auth.jwt_secret,
        JWT_ALGORITHM="HS256",
        JSON_SORT_KEYS=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[PLATFORM] = platform
    JWTManager(app)
    _answer_other_origins(app, [http.public_url.rstrip("/"), *http.cors_origins])
    app.before_request(_refuse_large_bodies(http.max_body_bytes))
    api = make_api(app)
    _register_slices(app, api)
    errors.register(app, {})
    if http.trusted_proxy_count:
        hops = http.trusted_proxy_count
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    return app


def _register_slices(app: Flask, api: Api) -> None:
    api.register_blueprint(health.blp)
    api.register_blueprint(auth_routes.blp)
    api.register_blueprint(oidc_routes.blp)
    api.register_blueprint(service_accounts_routes.blp)
    api.register_blueprint(magic_links_routes.blp)
    api.register_blueprint(rbac_routes.blp)
    api.register_blueprint(apps_routes.blp)
    api.register_blueprint(share_routes.blp)
    api.register_blueprint(data_routes.blp)
    api.register_blueprint(browser_routes.blp)
    api.register_blueprint(files_routes.blp)
    api.register_blueprint(storage_routes.blp)
    api.register_blueprint(audit_routes.blp)
    api.register_blueprint(hooks_routes.blp)
    api.register_blueprint(webhook_routes.blp)
    api.register_blueprint(jobs_routes.blp)
    api.register_blueprint(crons_routes.blp)
    api.register_blueprint(secrets_routes.blp)
    api.register_blueprint(workers_routes.blp)
    api.register_blueprint(agents_routes.blp)
    api.register_blueprint(mcp_routes.blp)
    api.register_blueprint(llm_routes.blp)
    api.register_blueprint(integrations_routes.blp)
    api.register_blueprint(connection_routes.blp)
    api.register_blueprint(channels_routes.blp)
    app.extensions[ACTOR_LOADER] = rbac_service.load_actor
    app.extensions[ACTOR_RECALLER] = rbac_service.recall


def _answer_other_origins(app: Flask, origins: Sequence[str]) -> None:
    """Let pages of some origins read answers."""
    CORS(app, origins=[re.compile(LOOPBACK_ORIGINS), *origins], send_wildcard=False)
    allow = app.after_request_funcs[None].pop()

    def answer(response: Response) -> Any:  # Any: for flask-cors it may be a coroutine
        # Most requests come from no page; there flask-cors would take a tenth of a short one.
        if "Origin" in request.headers:
            return allow(response)
        response.headers.add("Vary", "Origin")
        return response

    app.after_request(answer)


def _refuse_large_bodies(limit: int) -> Callable[[], Response | None]:
    def refuse() -> Response | None:
        if (request.content_length or 0) > limit:
            return errors.answer("request body too large", 413)
        return None

    return refuse
