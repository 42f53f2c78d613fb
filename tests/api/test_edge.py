"""The HTTP edge: one error format, CORS, the OpenAPI document."""

import json
from dataclasses import replace

import pytest

from app.bootstrap import make_redis
from app.factory import create_app
from tests.support.api import ApiClient, error


def test_health_needs_nothing(client):
    answer = client.http.get("/health")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_unknown_routes_and_methods_are_json(client):
    assert error(client.get("/nope")) == (404, "not found")
    assert error(client.http.get("/")) == (404, "not found")
    answer = client.http.post("/health")
    assert error(answer) == (405, "method not allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None]
)
def test_bodies_are_json_whatever_the_content_type_says(client, content_type):
    body = json.dumps({"email": "a@b.test", "password": "wrong"})
    answer = client.post("/auth/login", data=body, content_type=content_type)
    assert error(answer) == (401, "invalid email or password")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "request body is not valid JSON"),
        (b"", "request body is not valid JSON"),
        (b"\xff\xfe", "request body is not valid JSON"),
        (b"[]", "request body must be a JSON object"),
        (b'"x"', "request body must be a JSON object"),
        (b'{"email": 5, "password": "x"}', "field 'email' must be a string"),
        (b'{"email": "a@b.test"}', "field 'password' is required"),
        (b'{"email": "a@b.test", "password": null}', "field 'password' is required"),
    ],
)
def test_bad_bodies_are_400_and_name_the_field(client, body, text):
    assert error(client.post("/auth/login", data=body)) == (400, text)


def test_a_body_over_the_limit_is_413_before_anything_else(platform):
    small = replace(
        platform,
        settings=replace(
            platform.settings, http=replace(platform.settings.http, max_body_bytes=100)
        ),
    )
    client = ApiClient(create_app(small).test_client())
    assert error(client.post("/auth/login", data=b"x" * 101)) == (413, "request body too large")
    assert error(client.post("/apps", data=b"x" * 101)) == (413, "request body too large")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic eHg6eHg=",
        "Bearer a.b.c",
        "Token x",
        "Bearer \N{SNOWMAN}".encode().decode("latin-1"),
    ],
)
def test_a_malformed_authorization_header_is_401(client, header):
    assert error(client.get("/status", headers={"Authorization": header}))[0] == 401


def test_no_token_is_401_and_the_scheme_is_case_insensitive(client, admin):
    assert error(client.get("/status")) == (401, "authentication required")
    answer = client.get("/status", headers={"Authorization": f"bEARER {admin.token}"})
    assert answer.status_code == 200


def test_status_shows_the_parts(admin):
    body = admin.get("/status").json
    assert body["runtime"]["state"] == "online"
    assert body["postgres"] == {"state": "online", "port": None, "data_dir": None}
    assert body["redis"] == {"state": "online"}
    assert body["forge"] == {"state": "offline", "port": None}


def _on_port_1(settings):
    return replace(settings, redis=replace(settings.redis, url="redis://127.0.0.1:1/0"))


def test_status_survives_a_dead_redis(platform, admin):
    dead = replace(platform, redis=make_redis(_on_port_1(platform.settings)))
    client = ApiClient(create_app(dead).test_client(), admin.token)
    assert client.get("/status").json["redis"] == {"state": "offline"}


def test_a_dead_database_is_503_and_health_stays_200(platform, admin):
    from app.core.db import make_engine
    from app.core.events import Subscriptions
    from app.core.uow import UnitOfWorkFactory

    database = replace(platform.settings.database, url="postgresql+psycopg2://x:y@127.0.0.1:1/z")
    engine = make_engine(database, application_name="test")
    dead = replace(
        platform, engine=engine, uow=UnitOfWorkFactory(engine, platform.publisher, Subscriptions())
    )
    client = ApiClient(create_app(dead).test_client(), admin.token)
    assert error(client.get("/status")) == (503, "database not available")
    assert error(client.get("/auth/mode")) == (503, "database not available")
    assert client.http.get("/health").status_code == 200


def test_a_crash_tells_the_client_nothing(platform, admin):
    app = create_app(platform)

    def broken():
        raise RuntimeError("SELECT secret FROM trellis.users")

    app.add_url_rule("/api/v1/broken", "broken", broken)
    assert error(ApiClient(app.test_client()).get("/broken")) == (500, "internal error")


@pytest.mark.parametrize(
    "path", ["/apps/a%00b/collections/x", "/apps/a%00b/jobs", "/roles/a%00b", "/agents/%00"]
)
def test_nul_characters_never_crash(admin, path):
    assert admin.get(path).status_code in {200, 400, 404, 405}


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://127.0.0.1:8080", "http://localhost:9100"]
)
def test_local_and_own_origins_may_call(client, origin):
    answer = client.get("/nope", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    preflight = client.request(
        "OPTIONS",
        "/auth/login",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-own",
        },
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == origin
    assert "x-own" in preflight.headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Credentials" not in preflight.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.test", "http://localhost.evil.test", "http://localhost:1.evil.test", "null"],
)
def test_foreign_origins_may_not(client, origin):
    assert (
        "Access-Control-Allow-Origin" not in client.get("/nope", headers={"Origin": origin}).headers
    )


def test_the_openapi_document_and_its_page_need_no_internet(client):
    document = client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert document["paths"]["/api/v1/auth/login"]["post"]["responses"]["200"]
    page = client.get("/docs").get_data(as_text=True)
    assert "https://" not in page
    assert "http://" not in page
    with client.get("/docs/assets/swagger-ui-bundle.js") as asset:
        assert asset.status_code == 200
    assert error(client.get("/docs/assets/../../../../etc/passwd"))[0] == 404


def test_every_route_has_a_gate_and_is_documented(client):
    from app.http.gates import gate_of

    app = client.http.application
    documented = client.get("/openapi.json").json["paths"]
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<", "{").replace(">", "}")
        path = path.replace("{uuid:", "{").replace("{path:", "{")
        if rule.endpoint.startswith(("api-docs", "docs_assets", "static")):
            continue
        view = app.view_functions[rule.endpoint]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            owner = getattr(view, "view_class", None)
            assert gate_of(getattr(owner, method.lower()) if owner else view)
            assert method.lower() in documented[path], (method, path)
