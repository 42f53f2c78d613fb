"""Who may do what: every endpoint of the contract times every kind of caller.

Source: REST contract part 10, section 9; ``tests/contract/endpoints.tsv``.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.auth import tokens
from app.core.permissions import Permissions
from app.http.gates import gate_of
from tests.support.api import ApiClient, error, web_client

ENDPOINTS = Path(__file__).parents[1] / "contract" / "endpoints.tsv"

# Endpoints of the contract that do not exist yet. One that appears must leave this list.
NOT_BUILT: set[str] = set()
# Served by flask-smorest and open to everybody: they describe the API and hold no data.
DOCUMENTATION = {"/api/v1/openapi.json", "/api/v1/docs", "/api/v1/docs/assets/<path:name>"}


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    gate: str

    @property
    def name(self):
        return f"{self.method} {self.path}"

    @property
    def public(self):
        return self.gate == "public"

    def url(self, world):
        values = {
            "appId": "crm",
            "entity": "deals",
            "key": "TOKEN",
            "roleName": "spare",
            "provider_id": "acme",
            "userId": world.admin_id,
            **({"id": world.spare_id} if "/users/" in self.path else {}),
        }
        return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], str(uuid4())), self.path)

    def allowed(self, permissions):
        """Tell whether the gate lets a caller with these permissions in."""
        if self.name == "POST /api/v1/apps":  # with an app that is installed already
            return any(map(permissions.match, ("admin:apps.install", "app:crm:*")))
        return any(map(permissions.match, self.keys()))

    def keys(self):
        texts = {"appId": "crm", "entity": "deals"}
        for part in self.gate.split(" | "):
            key = "*" if part == "admin" else re.sub(r"\s*\(.*\)", "", part)
            yield re.sub(r"\{(\w+)\}", lambda m: texts.get(m[1], "x"), key)


def endpoints():
    with ENDPOINTS.open(newline="") as file:
        return [Endpoint(*row) for row in list(csv.reader(file, delimiter="\t"))[1:]]


ALL = endpoints()
BUILT = [endpoint for endpoint in ALL if endpoint.name not in NOT_BUILT]

CALLERS = {
    "nobody": (),
    "other_app": ("app:erp:*", "app:crm_old:*"),
    "reader": ("app:crm:deals.read",),
    "owner": ("app:crm:*",),
    "admin": ("*",),
}
BODIES = {
    "POST /api/v1/apps": {
        "appId": "crm",
        "name": "CRM",
        "version": "1.0.0",
        "dataContract": [{"entityName": "deals", "fields": [{"name": "title", "type": "text"}]}],
    }
}


@dataclass(frozen=True)
class World:
    http: object
    tokens: dict[str, str]
    admin_id: str
    spare_id: str

    def ask(self, endpoint, caller):
        headers = {"Authorization": f"Bearer {self.tokens[caller]}"} if caller else {}
        return ApiClient(self.http).http.open(
            endpoint.url(self),
            method=endpoint.method,
            headers=headers,
            json=BODIES.get(endpoint.name, {}),
        )


@pytest.fixture
def world(platform, settings):
    """One user per kind of caller, and the app ``crm`` with the entity ``deals``."""
    http = web_client(platform)
    found, ids = {}, {}
    with platform.engine.begin() as connection:
        for name, keys in {**CALLERS, "disabled": ("*",), "spare": ()}.items():
            ids[name] = str(uuid4())
            connection.execute(
                text(
                    "INSERT INTO trellis.users (id, email, disabled_at)"
                    " VALUES (:id, :email, CASE WHEN :off THEN now() END)"
                ),
                {"id": ids[name], "email": f"{name}@x.test", "off": name == "disabled"},
            )
            connection.execute(
                text("INSERT INTO trellis.rbac_roles (name, permissions) VALUES (:n, :p)"),
                {"n": name if name != "admin" else "boss", "p": list(keys)},
            )
            connection.execute(
                text("INSERT INTO trellis.rbac_assignments (user_id, role) VALUES (:u, :r)"),
                {"u": ids[name], "r": name if name != "admin" else "admin"},
            )
            found[name] = tokens.mint_access_token(settings.auth, UUID(ids[name]), f"{name}@x.test")
    installed = ApiClient(http, found["admin"]).post("/apps", BODIES["POST /api/v1/apps"])
    assert installed.status_code in {200, 201}, installed.json
    return World(http, found, ids["admin"], ids["spare"])


def statuses(world, endpoint):
    """Return the status for every kind of caller, the mightiest last."""
    answers = {}
    for caller in (None, "disabled", *CALLERS):
        with world.ask(endpoint, caller) as response:
            answers[caller] = response.status_code
    return answers


def expected(endpoint, caller):
    """Return 401, 403, or None for anything else."""
    if endpoint.public:
        return None
    if caller in {None, "disabled"}:
        return 401
    if endpoint.gate == "signed-in" or endpoint.allowed(Permissions.of(CALLERS[caller])):
        return None
    return 403


@pytest.mark.parametrize("endpoint", BUILT, ids=lambda endpoint: endpoint.name)
def test_the_matrix(world, endpoint):
    found = statuses(world, endpoint)
    reduced = {who: code if code in {401, 403} else None for who, code in found.items()}
    assert reduced == {who: expected(endpoint, who) for who in found}, found
    assert not [code for code in found.values() if code in {405, 422} or code >= 500], found


def test_a_public_endpoint_ignores_a_wrong_token(client):
    headers = {"Authorization": "Bearer junk"}
    for endpoint in BUILT:
        if endpoint.public and endpoint.method == "GET" and "callback" not in endpoint.path:
            url = endpoint.path.replace("{provider_id}", "x")
            assert client.http.get(url, headers=headers).status_code in {200, 404}, url


# What the process serves, against the contract's list


def normal(path):
    return re.sub(r"<[^>]+>|\{[^}]+\}", "{}", path)


@pytest.fixture
def routes(client):
    """Every route of the application: (method, path) -> view method."""
    app = client.http.application
    found = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            view_class = getattr(view, "view_class", None)
            handler = getattr(view_class, method.lower(), None) if view_class else view
            found[method, rule.rule] = handler
    return found


def test_what_is_built_is_known_and_what_is_missing_is_listed(routes):
    served = {(method, normal(path)) for method, path in routes}
    missing = {e.name for e in ALL if (e.method, normal(e.path)) not in served}
    assert missing == NOT_BUILT


def test_every_route_has_the_gate_of_the_contract(routes):
    listed = {(e.method, normal(e.path)): normal(e.gate) for e in ALL}
    for (method, path), handler in routes.items():
        if path in DOCUMENTATION:
            continue
        gate = normal(gate_of(handler).text)
        assert gate == listed.get((method, normal(path)), gate), f"{method} {path}"


def test_every_route_is_in_the_openapi_document(client, routes):
    document = client.get("/openapi.json").json
    described = {
        (method.upper(), normal(path)): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    for (method, path), handler in routes.items():
        if path in DOCUMENTATION:
            continue
        operation = described.get((method, normal(path)))
        assert operation is not None, f"{method} {path} is not described"
        assert operation.get("summary"), f"{method} {path} has no summary"
        secured = operation.get("security") == [{"bearer": []}]
        assert secured == (not gate_of(handler).public), f"{method} {path}"


def test_unknown_paths_are_404_without_a_token(client):
    assert error(client.get("/nope")) == (404, "not found")
