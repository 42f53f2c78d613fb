"""Integrations that people write themselves: every hook, app code as caller, the documented one."""

import hmac
import json
import re
from pathlib import Path

import pytest

from tests.fakes.google import CLIENT_ID, CLIENT_SECRET, FakeOAuth
from tests.fakes.rest import FakeService, Told, serving
from tests.support.integrations import Caller

DOCUMENT = Path(__file__).parents[2] / "docs" / "integrations.md"

WORKER = """
from trellis_worker import serve

def integration(params, caller, ctx):
    if params["action"] == "boom":
        raise ValueError("out of paper")
    if params["action"] == "sync_me":
        if params["userCredentials"]["token"] == "bad":
            raise ValueError("no")
        return {"ok": True, "data": caller.user_id}
    if params["action"] == "reject":
        return {"ok": False, "error": {"code": "INSUFFICIENT_PERMISSIONS", "message": "go away"}}
    return {"echo": params["input"], "config": params["config"], "user": params["userId"],
            "credentials": params["userCredentials"], "connection": params["connectionId"],
            "caller": caller.user_id}

def auth_start(params):
    assert params["config"]["key"]
    return {"type": "redirect", "url": params["callbackUrl"] + "|" + params["state"]}

def auth_callback(params):
    query = params["query"]
    if query.get("ticket") == "wrong":
        raise ValueError("wrong ticket")
    return {"credentials": {"token": query["ticket"]}, "label": query.get("name")}

def bind(params):
    return {"mergeConfig": {"derived": params["config"]["key"].upper()}}

def sync_all(params, caller, ctx):
    return ctx.self_action("syncConnectedUsers", {"actionName": "sync_me"})

serve(rpc={"__integration": integration, "__auth_start": auth_start,
           "__auth_callback": auth_callback, "__bind": bind, "sync_all": sync_all})
"""
MANIFEST = {
    "type": "integration",
    "configSchema": {
        "type": "object",
        "required": ["key"],
        "properties": {
            "key": {"type": "string", "platformSecret": "OWN_KEY"},
            "derived": {"type": "string", "platformSecret": "OWN_DERIVED"},
            "size": {"type": "integer", "default": 3},
        },
    },
    "userAuth": {"type": "redirect"},
    "actions": [
        {"id": "echo", "name": "Echo", "inputSchema": {"properties": {"n": {"default": 1}}}},
        {"id": "public_echo", "name": "Echo", "requiresConnection": False},
        {"id": "boom", "name": "Boom", "requiresConnection": False},
        {"id": "reject", "name": "Reject"},
        {"id": "sync_me", "name": "Sync"},
    ],
}
CLIENT_APP = """
from trellis_worker import serve, HostError

def through(params, caller, ctx):
    try:
        return ctx.call_integration("own", params["action"], params.get("input"))
    except HostError as exc:
        return {"error": str(exc)}

def token(params, caller, ctx):
    return caller.auth_token

def chain(params, caller, ctx):
    return ctx.action("inner", {"x": params})

def inner(params, caller, ctx):
    return {"inner": params, "user": caller.user_id}

serve(rpc={"through": through, "token": token, "chain": chain, "inner": inner})
"""


@pytest.fixture(scope="module")
def installed(shared_platform):
    shared_platform.install("own", WORKER, **MANIFEST)
    saved = shared_platform.admin.put("/integrations/own/config", json={"key": "k-e-y", "size": 5})
    assert saved.status_code == 200, saved.text
    return Caller(shared_platform.admin, "own")


@pytest.fixture
def own(installed):
    """The integration, with nobody logged in."""
    installed.client.delete(f"{installed.path}/auth")
    return installed


def connect(caller, **query):
    state = caller.begin().partition("|")[2]
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return caller.return_with(f"state={state}&{pairs}")


def test_a_worker_may_log_users_in_itself(own, shared_platform):
    assert own.raw("echo").status_code == 409
    assert connect(own, ticket="wrong").status_code == 500
    page = connect(own, ticket="t1", name="first")
    assert (page.status_code, "Connected to own." in page.text) == (200, True)
    answer = own.raw("echo", {"n": 2}).json()
    me = shared_platform.admin.get("/auth/me").json()["id"]
    (row,) = shared_platform.admin.get("/integrations/own/connections").json()
    assert answer == {
        "echo": {"n": 2},
        "config": {"key": "k-e-y", "derived": "K-E-Y", "size": 5},
        "credentials": {"token": "t1"},
        "connection": row["id"],
        "user": me,
        "caller": me,
    }
    assert own.raw("echo").json()["echo"] == {"n": 1}
    free = own.raw("boom")
    assert (free.status_code, free.json()) == (500, {"error": "action failed: out of paper"})
    hidden = shared_platform.rpc("own", "__integration", {})
    assert hidden.json() == {"error": "method '__integration' is reserved"}


def test_app_code_acts_for_its_caller(own, shared_platform):
    connect(own, ticket="t1", name="first")
    action = {"id": "inner", "name": "Inner"}
    shared_platform.install("desk", CLIENT_APP, actions=[action])
    ask = lambda method, params: shared_platform.rpc("desk", method, params).json()  # noqa: E731
    refused = {"error": "app 'desk' is not bound to 'own'"}
    assert ask("through", {"action": "echo"}) == refused
    limited = Caller(shared_platform.stack.client(ask("token", None)), "own")
    assert limited.raw("echo").json() == refused
    bound = shared_platform.admin.post("/apps/desk/integrations", json={"integrationId": "own"})
    assert bound.json() == {"message": "bound"}
    assert ask("through", {"action": "echo"})["credentials"] == {"token": "t1"}
    assert limited.raw("echo").json()["credentials"] == {"token": "t1"}
    assert ask("through", {"action": "fly"}) == {"error": "action 'fly' not found"}
    assert ask("through", {"action": "boom"}) == {"error": "action failed: out of paper"}
    assert ask("chain", 7)["inner"] == {"x": 7}


def test_a_sync_runs_for_every_connection(own, shared_platform):
    connect(own, ticket="t1", name="first")
    connect(own, ticket="bad", name="second")
    connect(own, ticket="t3", name="third")
    synced = shared_platform.rpc("own", "sync_all")
    assert synced.json() == {"ok": True, "synced": 2}
    rejected = own.raw("reject").json()
    assert rejected["error"]["code"] == "INSUFFICIENT_PERMISSIONS"
    rows = shared_platform.admin.get("/integrations/own/connections").json()
    assert [(r["label"], r["status"], r["lastError"]) for r in rows] == [
        ("first", "dead", "go away"),
        ("second", "active", None),
        ("third", "active", None),
    ]


SHOP = """
from trellis_worker import serve

def integration(params):
    return {"ok": True, "data": params["userCredentials"]["access_token"]}

serve(rpc={"__integration": integration})
"""
SHOP_MANIFEST = {
    "type": "integration",
    "configSchema": {
        "type": "object",
        "required": ["id", "secret"],
        "properties": {
            "id": {"type": "string"},
            "secret": {"type": "string", "platformSecret": "SHOP_SECRET"},
            "base": {"type": "string"},
        },
    },
    "userAuth": {
        "type": "redirect",
        "oauth2": {
            "authorizeUrl": "{base}/o/oauth2/v2/auth",
            "tokenUrl": "{base}/token",
            "scopes": ["read"],
            "clientAuth": "basic",
            "clientIdField": "id",
            "clientSecretField": "secret",
            "label": {"from": "userinfo", "claim": "mail", "url": "{base}/userinfo"},
        },
    },
    "actions": [{"id": "show", "name": "Show"}],
}


def test_an_oauth_login_as_a_manifest_describes_it(shared_platform):
    shared_platform.install("shop", SHOP, **SHOP_MANIFEST)
    server = FakeOAuth()
    server.client_auth, server.expires_in = "basic", 30
    with serving(server):
        config = {"id": CLIENT_ID, "secret": CLIENT_SECRET, "base": server.url}
        admin = shared_platform.admin
        assert admin.put("/integrations/shop/config", json=config).status_code == 200
        shop = Caller(admin, "shop")
        page = shop.return_with(server.log_in(shop.begin()))
        assert page.status_code == 200, page.text
        (row,) = admin.get("/integrations/shop/connections").json()
        assert (row["label"], row["status"]) == ("ana@google.test", "active")
        server.expires_in = 3600
        renewed = shop.ok("show")
        assert (renewed in server.access, server.refreshes) == (True, 1)
        forms = [asked.form for asked in server.take() if asked.path == "/token"]
        assert len(forms) == 2
        assert not any("client_secret" in form for form in forms)
    shared_platform.admin.delete("/apps/shop")


class Tickets(FakeService):
    """The service of the documented example."""

    def handle(self, asked):
        if asked.headers["authorization"] != "Bearer key-of-ana":
            return Told(401)
        assert (asked.method, asked.path) == ("POST", "/tickets")
        return Told(body={"number": 41 + len(asked.body["title"])})


def test_the_documented_integration_works(shared_platform):
    text = DOCUMENT.read_text()
    blocks = dict(re.findall(r"```(json|python)\n(.*?)```", text, re.DOTALL))
    assert len((blocks["python"]).splitlines()) <= 60
    admin = shared_platform.admin
    assert admin.post("/apps", json=json.loads(blocks["json"])).status_code == 200
    assert shared_platform.deploy("tickets", blocks["python"]).status_code == 200
    service = Tickets()
    with serving(service):
        tickets = Caller(admin, "tickets")
        admin.put("/integrations/tickets/config", json={"signingKey": "s", "baseUrl": service.url})
        body = {"credentials": {"apiKey": "key-of-ana"}}
        admin.post("/integrations/tickets/auth/credentials", json=body)
        assert tickets.ok("open_ticket", {"title": "x"}) == {"number": 42}
        assert service.take()[0].body == {"title": "x", "urgent": False}
        (hook,) = admin.get("/apps/tickets/webhooks").json()
        body = b'{ "number": 42 }'
        signed = hmac.new(b"s", body, "sha256").hexdigest()
        for signature, expected in (
            (signed, {"event": "ticket_closed", "number": 42}),
            ("x", {"skipped": True, "reason": "bad signature"}),
        ):
            headers = {"X-Signature": signature}
            answer = admin.post(f"/hooks/{hook['token']}", content=body, headers=headers)
            assert answer.json() == expected
        wrong = tickets.raw("open_ticket", {"title": ""})
        assert wrong.json() == {"error": "input: $.title: does not fit minLength 1"}
        body = {"credentials": {"apiKey": "other"}, "label": "other"}
        other = admin.post("/integrations/tickets/auth/credentials", json=body).json()
        error = tickets.fails(
            "open_ticket", {"title": "x"}, params={"connection_id": other["connectionId"]}
        )
        assert error["code"] == "INSUFFICIENT_PERMISSIONS"
