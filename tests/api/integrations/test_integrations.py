"""Integrations as far as the API answers by itself: no worker is needed."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.core.ids import agent_user_id
from app.integrations import connections
from app.rbac import service as rbac_service
from tests.support.agents import install_agent
from tests.support.api import error

MANIFEST = {
    "appId": "books",
    "name": "Books",
    "version": "2.0.0",
    "type": "integration",
    "instructions": "ask nicely",
    "configSchema": {
        "type": "object",
        "required": ["apiToken"],
        "properties": {
            "apiToken": {"type": "string", "platformSecret": "BOOKS_TOKEN"},
            "shards": {"type": "integer", "minimum": 1},
            "baseUrl": {"type": "string", "default": "https://books.test"},
        },
    },
    "userAuth": {
        "type": "credentials",
        "schema": {
            "type": "object",
            "required": ["username", "password"],
            "properties": {
                "username": {"type": "string"},
                "password": {"type": "string", "minLength": 3, "secret": True},
                "port": {"type": "integer", "default": 993},
            },
        },
    },
    "actions": [
        {
            "id": "lend",
            "name": "Lend",
            "inputSchema": {
                "type": "object",
                "required": ["book"],
                "properties": {
                    "book": {"type": "string"},
                    "days": {"type": "integer", "default": 14},
                    "to": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                },
            },
        },
        {"id": "count", "name": "Count", "requiresConnection": False},
    ],
    "webhooks": ["returned"],
}
PASSWORD = "s3cret-of-books"


@pytest.fixture
def books(admin):
    """The administrator, with the integration installed."""
    assert admin.post("/apps", MANIFEST).status_code == 200
    return admin


@pytest.fixture
def user(books):
    """A user who may run the actions."""
    other = books.sign_up("user@example.com")
    grant(books, other, "borrower", ["integration:books:lend", "integration:books:count"])
    return other


def grant(admin, user, role, permissions):
    made = admin.post("/roles", {"name": role, "permissions": permissions})
    assert made.status_code in {200, 201}, made.json
    given = admin.post("/roles/assign", {"userId": user.user_id, "role": role})
    assert given.status_code == 200, given.json


def connect(client, label=None, password=PASSWORD):
    body = {"credentials": {"username": "ana", "password": password}}
    answer = client.post(
        "/integrations/books/auth/credentials", body | ({"label": label} if label else {})
    )
    assert answer.status_code == 200, answer.json
    return answer.json["connectionId"]


def configure(client, **values):
    answer = client.put("/integrations/books/config", values)
    assert answer.status_code == 200, answer.json


def lend(client, given=None, **kwargs):
    return client.post("/integrations/books/actions/lend", given or {"book": "Emma"}, **kwargs)


def test_lists_show_what_is_installed_and_what_could_be(books):
    (listed,) = books.get("/integrations").json
    assert listed["id"] == "books"
    assert listed["configured"] is False
    assert [a["id"] for a in listed["actions"]] == ["lend", "count"]
    assert listed["actions"][1]["requiresConnection"] is False
    assert listed["userAuth"] == MANIFEST["userAuth"]
    assert listed["instructions"] == "ask nicely"
    catalog = books.get("/integrations/catalog").json
    assert [entry["id"] for entry in catalog] == [
        "gmail",
        "google_calendar",
        "imap_smtp",
        "notion",
        "outlook",
    ]
    assert not any(entry["installed"] for entry in catalog)
    assert {len(e["actions"]) for e in catalog if e["id"] in {"imap_smtp", "outlook"}} == {7, 6}
    notion = next(entry for entry in catalog if entry["id"] == "notion")
    assert (len(notion["actions"]), notion["userAuth"]) == (11, None)
    keys = {key["key"] for key in books.get("/permissions/available").json}
    assert {"integration:books:lend", "integration:books:manage"} <= keys


def test_catalog_errors(books):
    post = books.post("/integrations/catalog/nope/deploy")
    assert error(post) == (404, "integration 'nope' is not in the catalog")
    assert error(books.post("/integrations/catalog/notion/deploy")) == (
        503,
        "no worker host available",
    )
    assert error(books.delete("/integrations/catalog/notion")) == (
        404,
        "integration 'notion' is not installed",
    )
    assert "notion" not in {app["id"] for app in books.get("/apps").json}


def test_the_configuration_is_kept_and_never_shown(books, platform):
    assert error(books.put("/integrations/nope/config", {})) == (
        404,
        "integration 'nope' is not installed",
    )
    put = lambda **values: books.put("/integrations/books/config", values)  # noqa: E731
    assert error(put(shards=0))[1] == "config field 'shards': does not fit minimum 1"
    assert error(put(shards="2"))[1] == "config field 'shards': must be of type integer"
    assert error(put(apiToken=7))[1] == "config field 'apiToken': must be of type string"
    configure(books, shards=2, unknown="ignored")
    assert books.get("/integrations").json[0]["configured"] is False
    answer = books.put("/integrations/books/config", {"apiToken": "t0ken-of-books"})
    assert answer.json == {"message": "configuration saved"}
    assert books.get("/integrations").json[0]["configured"] is True
    assert books.get("/platform/secrets").json == ["BOOKS_TOKEN"]
    with platform.engine.connect() as connection:
        settings = connection.scalar(text("SELECT values FROM trellis.integration_settings"))
    assert settings == {"shards": 2}
    configure(books, apiToken="", shards=None)
    assert books.get("/integrations").json[0]["configured"] is False
    assert books.get("/platform/secrets").json == []


def test_named_configurations(books):
    path = "/integrations/books/configs"
    assert error(books.post(path, {"label": "b"})) == (400, "field 'credentials' is required")
    made = books.post(path, {"label": "branch", "credentials": {"apiToken": "x1", "shards": 3}})
    assert made.json["label"] == "branch"
    again = books.post(path, {"label": "branch", "credentials": {}})
    assert error(again) == (409, "a config with this label exists")
    (row,) = books.get(path).json
    assert (row["id"], row["configured"]) == (made.json["id"], True)
    assert "x1" not in books.get(path).text
    assert error(books.delete(f"{path}/{uuid4()}")) == (404, "config not found")
    assert books.delete(f"{path}/{row['id']}").json == {"message": "configuration deleted"}
    assert books.get(path).json == []


def test_actions_are_refused_before_anything_runs(books, user):
    post = lambda path, **kw: user.post(f"/integrations/{path}", {}, **kw)  # noqa: E731
    stranger = books.sign_up("stranger@example.com")
    assert error(lend(stranger)) == (403, "missing permission: integration:books:lend")
    assert error(post("nope/actions/lend"))[1] == "missing permission: integration:nope:lend"
    nope = books.post("/integrations/nope/actions/lend", {})
    assert error(nope) == (404, "integration 'nope' is not installed")
    fly = books.post("/integrations/books/actions/fly", {})
    assert error(fly) == (404, "action 'fly' not found")
    assert error(lend(user, {"days": 1})) == (400, "input: $: 'book' is a required property")
    wrong = {"book": "Emma", "to": [{"name": "a"}, {}]}
    assert error(lend(user, wrong))[1] == "input: $.to[1]: 'name' is a required property"
    assert error(lend(user, {"book": "x", "days": "1"}))[1] == (
        "input: $.days: must be of type integer"
    )
    assert error(lend(user)) == (400, "integration 'books' is not configured")
    configure(books, apiToken="t")
    assert error(lend(user)) == (409, "not connected to 'books'")
    assert error(lend(user, headers={"X-App-Id": "shop"})) == (
        403,
        "app 'shop' is not bound to 'books'",
    )
    assert (
        error(user.post("/integrations/books/actions/lend?connection_id=x", {"book": "b"}))[1]
        == "not a valid UUID: 'x'"
    )
    unknown = user.post(f"/integrations/books/actions/lend?connection_id={uuid4()}", {"book": "b"})
    assert error(unknown) == (404, "connection not found")
    others = connect(books)
    foreign = user.post(f"/integrations/books/actions/lend?connection_id={others}", {"book": "b"})
    assert error(foreign) == (403, "connection belongs to another user")
    connect(user)
    # All checks passed: only now a node is asked for.
    assert error(lend(user)) == (503, "worker for app 'books' is not running")
    assert error(post("books/actions/count"))[0] == 503


def test_credentials_and_connections(books, user, platform):
    path = "/integrations/books/auth/credentials"
    assert error(user.post(path, {})) == (400, "field 'credentials' is required")
    short = {"credentials": {"username": "a", "password": "pw"}}
    refused = error(user.post(path, short))
    assert refused == (400, "credentials: $.password: does not fit minLength 3")
    start = user.post("/integrations/books/auth/start")
    assert start.json == {"type": "credentials", "schema": MANIFEST["userAuth"]["schema"]}
    first = connect(user)
    assert connect(user, password="another-secret") == first
    second = connect(user, label="work")
    status = {"connected": True, "connectionCount": 2, "deadCount": 0}
    assert user.get("/integrations/books/auth").json == status
    rows = user.get("/integrations/books/connections").json
    assert [(row["id"], row["label"], row["status"]) for row in rows] == [
        (first, "ana", "active"),
        (second, "work", "active"),
    ]
    assert set(rows[0]) == {
        "id",
        "integrationId",
        "userId",
        "label",
        "status",
        "lastError",
        "createdAt",
    }
    one = f"/integrations/books/connections/{second}"
    assert error(books.patch(one, {"label": "x"})) == (403, "connection belongs to another user")
    assert user.patch(one, {"label": "home"}).json == {"message": "connection updated"}
    assert error(user.patch(one, {"label": "ana"}))[0] == 400
    assert books.get("/integrations/books/connected-users").json == [user.user_id]
    assert user.delete(one).json == {"message": "connection deleted"}
    assert error(user.delete(one)) == (404, "connection not found")
    assert vault_names(platform) == {f"_conn.{first}"}
    assert user.delete("/integrations/books/auth").json == {"message": "disconnected"}
    assert user.delete("/integrations/books/auth").json == {"message": "disconnected"}
    assert vault_names(platform) == set()
    assert error(user.get("/integrations/books/auth?agent_app_id=assistant"))[0] == 403
    look = books.get("/integrations/books/auth?agent_app_id=assistant")
    assert look.json == {"connected": False, "connectionCount": 0, "deadCount": 0}


def vault_names(platform):
    with platform.engine.connect() as connection:
        query = text("SELECT key_name FROM trellis.secrets WHERE scope = 'books'")
        return set(connection.scalars(query))


def test_bindings_choose_and_guard(books, user):
    books.post("/apps", {"appId": "shop", "name": "Shop"})
    path = "/apps/shop/integrations"
    assert error(user.post(path, {"integrationId": "books"})) == (
        403,
        "missing permission: integration:books:manage",
    )
    mine = {"integrationId": "books", "scope": "user"}
    assert error(user.post(path, mine)) == (400, "a user binding needs connectionId")
    shared, own = connect(books), connect(user)
    wrong = mine | {"connectionId": shared}
    assert error(user.post(path, wrong)) == (400, "connection not found or not yours")
    assert books.post(path, {"integrationId": "books", "connectionId": shared}).json == {
        "message": "bound"
    }
    configure(books, apiToken="t")
    through = {"headers": {"X-App-Id": "shop"}}
    assert error(lend(user, **through)) == (403, "missing permission: integration:books:manage")
    assert user.post(path, mine | {"connectionId": own}).json == {"message": "bound"}
    assert error(lend(user, **through))[0] == 503
    assert [(b["userId"], b["connectionId"]) for b in user.get(path).json] == [
        (None, shared),
        (user.user_id, own),
    ]
    other = books.sign_up("other@example.com")
    assert len(other.get(path).json) == 1
    assert len(books.get(path).json) == 2
    for _ in range(2):
        assert user.delete(f"{path}/books?scope=user").json == {"message": "unbound"}
    assert error(user.delete(f"{path}/books"))[0] == 403
    assert books.delete(f"{path}/books").json == {"message": "unbound"}
    assert error(lend(user, **through)) == (403, "app 'shop' is not bound to 'books'")
    assert error(user.get("/apps/nope/integrations")) == (404, "no app 'nope'")


def test_a_connection_is_lent_to_an_agent(books, user, platform):
    agent = install_agent(platform, books, {"appId": "helper", "name": "Helper"})
    path = "/integrations/books/auth/delegate"
    body = {"agent_app_id": agent}
    assert error(user.post(path, body)) == (403, "administrator permission required")
    assert error(books.post(path, body)) == (400, "connect this integration first")
    lent = connect(books)
    for _ in range(2):
        assert books.post(path, body).json == {"message": "delegated"}
    no_agent = books.post(path, {"agent_app_id": "books"})
    assert error(no_agent) == (404, "app 'books' has no agent")
    configure(books, apiToken="t")
    with platform.uow.reading() as session:
        actor = rbac_service.load_actor(session, UUID(user.user_id))
        found = connections.resolve(session, actor, "books", agent_user_id=agent_user_id(agent))
        assert str(found.id) == lent
        assert connections.resolve(session, actor, "books") is None
    assert books.delete(f"/integrations/books/connections/{lent}").status_code == 200
    with platform.uow.reading() as session:
        assert (
            connections.resolve(session, actor, "books", agent_user_id=agent_user_id(agent)) is None
        )


def test_what_goes_takes_its_secrets_along(books, user, platform):
    configure(books, apiToken="t")
    other = MANIFEST | {"appId": "films", "name": "Films"}
    assert books.post("/apps", other).status_code == 200
    connect(user)
    assert books.delete(f"/users/{user.user_id}").status_code == 200
    assert vault_names(platform) == set()
    connect(books)
    books.post("/integrations/books/configs", {"label": "x", "credentials": {"apiToken": "y"}})
    gone = books.delete("/integrations/catalog/books")
    assert gone.json == {"message": "integration 'books' is removed"}
    assert vault_names(platform) == set()
    # Another integration names the same platform secret.
    assert books.get("/platform/secrets").json == ["BOOKS_TOKEN"]
    assert books.delete("/integrations/catalog/films").status_code == 200
    assert books.get("/platform/secrets").json == []
    with platform.engine.connect() as connection:
        for table in ("connections", "configs", "settings"):
            query = text(f"SELECT count(*) FROM trellis.integration_{table}")
            assert connection.scalar(query) == 0


def test_a_callback_without_a_known_state_is_a_page(client):
    for query in ("", "?state=unknown&code=x", "?state=%00"):
        answer = client.get(f"/integrations/auth/callback{query}")
        assert (answer.status_code, answer.mimetype) == (400, "text/html")
        assert b"This login is unknown" in answer.data
