"""A test client that reads like the API's documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.core.platform import Platform
from app.factory import create_app
from app.http.views import PLATFORM

PASSWORD = "Str0ngPass!x"
_apps: dict[Any, Flask] = {}


def web_client(platform: Platform) -> FlaskClient:
    """Return a client of the application on a platform, which takes the place of the last one.

    Building the application takes longer than most tests; nothing in it but the platform is of one
    test. A test with several platforms at once builds applications of its own.
    """
    settings = platform.settings
    reads = (settings.http, settings.auth.jwt_secret)
    app = _apps.get(reads) or _apps.setdefault(reads, create_app(platform))
    app.extensions[PLATFORM] = platform
    return app.test_client()


@dataclass(frozen=True)
class ApiClient:
    """Sends requests below ``/api/v1``, as one user or as nobody."""

    http: FlaskClient
    token: str | None = None
    user_id: str | None = None

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, json: Any = None, **kwargs: Any) -> TestResponse:
        return self.request("POST", path, json=json, **kwargs)

    def put(self, path: str, json: Any = None, **kwargs: Any) -> TestResponse:
        return self.request("PUT", path, json=json, **kwargs)

    def patch(self, path: str, json: Any = None, **kwargs: Any) -> TestResponse:
        return self.request("PATCH", path, json=json, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> TestResponse:
        return self.request("DELETE", path, **kwargs)

    def request(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        headers = dict(kwargs.pop("headers", {}))
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if kwargs.get("json") is None:
            kwargs.pop("json", None)
        return self.http.open(f"/api/v1{path}", method=method, headers=headers, **kwargs)

    def sign_up(self, email: str, password: str = PASSWORD) -> ApiClient:
        """Register and log in; return the client of the new user."""
        created = self.post("/auth/register", {"email": email, "password": password})
        assert created.status_code == 201, created.json
        return self.log_in(email, password)

    def log_in(self, email: str, password: str = PASSWORD) -> ApiClient:
        """Return a client with that user's token."""
        answer = self.post("/auth/login", {"email": email, "password": password})
        assert answer.status_code == 200, answer.json
        return ApiClient(self.http, answer.json["accessToken"], answer.json["user"]["id"])


def error(response: TestResponse) -> tuple[int, str]:
    """Return status and text of an error answer, and check its only shape."""
    assert response.content_type == "application/json", response.data
    assert set(response.json) == {"error"}, response.json
    return response.status_code, response.json["error"]
