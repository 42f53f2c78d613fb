"""flask-smorest, speaking the contract's language."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import flask_smorest
from flask import Flask, Response, abort, send_from_directory
from werkzeug.exceptions import HTTPException

from app.http import errors
from app.http.parsing import Parser
from app.http.schemas import ErrorOut

PREFIX = "/api/v1"
ASSETS = f"{PREFIX}/docs/assets"


class Blueprint(flask_smorest.Blueprint):
    """A slice's routes; bodies are parsed by the contract's rules."""

    ARGUMENTS_PARSER = Parser()

    def register_views_in_doc(self, api: Api, *args: Any, **kwargs: Any) -> None:  # Any: apispec's
        """Leave the description of the routes until somebody asks for the document.

        Describing all routes takes longer than registering them, and most processes are never asked.
        """
        describe = super().register_views_in_doc
        api.undescribed.append(lambda: describe(api, *args, **kwargs))


class Api(flask_smorest.Api):
    """The OpenAPI document and its browsable page."""

    ERROR_SCHEMA = ErrorOut

    def __init__(self, app: Flask) -> None:
        self.undescribed: list[Callable[[], None]] = []
        super().__init__(app)

    def _openapi_json(self) -> Response:
        while self.undescribed:
            self.undescribed.pop(0)()
        document: Response = super()._openapi_json()
        return document

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer in the one error format."""
        return errors.http_error(error)


def make_api(app: Flask) -> Api:
    """Configure flask-smorest on an app; the docs page needs no internet."""
    app.config.update(
        API_TITLE="Trellis",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX=PREFIX,
        OPENAPI_JSON_PATH="openapi.json",
        OPENAPI_SWAGGER_UI_PATH="/docs",
        OPENAPI_SWAGGER_UI_URL=f"{ASSETS}/",
        API_SPEC_OPTIONS={
            "info": {"version": version("trellis-platform")},
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
                }
            },
        },
    )
    app.add_url_rule(f"{ASSETS}/<path:name>", "docs_assets", _docs_asset)
    return Api(app)


def _docs_asset(name: str) -> Any:  # Any: a Werkzeug response
    root = importlib.resources.files("swagger_ui_bundle") / "vendor"
    folders = sorted(path.name for path in root.iterdir() if path.name.startswith("swagger-ui"))
    if not folders:
        abort(404)
    return send_from_directory(str(root / folders[-1]), name)
