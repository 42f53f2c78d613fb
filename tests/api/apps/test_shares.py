"""Public shares, and who may call a public RPC.

Source: REST contract part 20, sections 3.12 and 8.
"""

import pytest
from sqlalchemy import text

from tests.support.api import ApiClient, error

SHARES, RPC = "/apps/docs/public-shares", "/apps/docs/rpc"
MANIFEST = {
    "appId": "docs",
    "name": "Docs",
    "permissions": {"permissions": [{"key": "public.share"}]},
    "public": {
        "rpcs": [{"name": "about"}, {"name": "show", "scope": ["doc"]}, {"name": "__x"}],
    },
}
NO_TOKEN, BAD_TOKEN = (401, "authentication required"), (401, "invalid or expired token")
NOT_COVERED = (403, "the share token does not cover this call")
# Whoever is let in learns that this platform has no worker node.
LET_IN = (503, "worker for app 'docs' is not running")


@pytest.fixture(scope="module")
def docs(shared_admin):
    assert shared_admin.post("/apps", MANIFEST).status_code == 200
    other = {**MANIFEST, "appId": "other", "name": "Other"}
    assert shared_admin.post("/apps", other).status_code == 200
    return shared_admin


@pytest.fixture(scope="module")
def anyone(docs):
    return ApiClient(docs.http)


def make(client, context=None, app="docs"):
    answer = client.post(f"/apps/{app}/public-shares", {"context": context})
    assert answer.status_code in {200, 201}, answer.json
    return answer.json


def bearer(client, share):
    return ApiClient(client.http, share["token"])


def call(client, method, params=None):
    return error(client.post(RPC, {"method": method, "params": params}))


def test_a_share_is_made_listed_used_and_revoked(docs, anyone):
    made = docs.post(SHARES, {"context": {"doc": 1, "a": [None]}})
    assert made.status_code == 201
    share = made.json
    assert set(share) == {
        *("id", "url", "token", "tokenPrefix", "context", "createdAt", "revoked"),
    }
    assert len(share["token"]) == 43
    assert share["tokenPrefix"] == share["token"][:8]
    assert share["url"].endswith(f"/share/{share['token']}")
    again = docs.post(SHARES, {"context": {"a": [None], "doc": 1}})
    assert (again.status_code, again.json["id"], again.json["token"]) == (200, share["id"], "")
    info = bearer(docs, share).get("/public/share/info")
    assert info.json == {"appId": "docs", "context": {"doc": 1, "a": [None]}}
    row = next(row for row in docs.get(SHARES).json if row["id"] == share["id"])
    assert set(row) == {
        *("id", "appId", "context", "tokenPrefix", "createdAt", "lastAccessedAt", "accessCount"),
    }
    assert row["accessCount"] == 1
    assert row["lastAccessedAt"].endswith("Z")
    path = f"{SHARES}/{share['id']}"
    assert docs.delete(path).json == {"message": f"share '{share['id']}' revoked"}
    assert error(docs.delete(path)) == (404, f"no share '{share['id']}'")
    assert error(bearer(docs, share).get("/public/share/info")) == BAD_TOKEN
    assert share["id"] not in {row["id"] for row in docs.get(SHARES).json}
    fresh = make(docs, {"doc": 1, "a": [None]})
    assert fresh["id"] != share["id"]
    assert fresh["token"]


def test_contexts_are_any_json_and_compared_with_their_types(docs):
    shares = [make(docs, context) for context in (None, 1, True, "1", [1], {"n": 1})]
    assert len({share["id"] for share in shares}) == 6
    assert all(share["token"] for share in shares)
    assert docs.post(SHARES, {}).json["id"] == shares[0]["id"]
    assert error(docs.post(SHARES, {"context": "x" * 20_000}))[0] == 400


def test_only_the_creator_sees_and_revokes_a_share(docs):
    share = make(docs, "mine")
    ben = docs.sign_up("ben@example.com")
    assert error(ben.post(SHARES, {})) == (403, "missing permission: app:docs:public.share")
    docs.post("/roles", {"name": "sharer", "permissions": ["app:docs:public.share"]})
    docs.post("/roles/assign", {"userId": ben.user_id, "role": "sharer"})
    assert ben.get(SHARES).json == []
    assert error(ben.delete(f"{SHARES}/{share['id']}")) == (404, f"no share '{share['id']}'")
    assert make(ben, "mine")["id"] != share["id"]
    assert error(docs.delete(f"{SHARES}/x")) == (400, "not a valid UUID: 'x'")
    assert error(docs.post("/apps/nope/public-shares", {})) == (404, "no app 'nope'")


def test_info_takes_share_tokens_only(docs, anyone):
    info = "/public/share/info"
    assert error(anyone.get(info)) == NO_TOKEN
    for token in (docs.token, "A" * 43, "junk"):
        assert error(ApiClient(docs.http, token).get(info)) == BAD_TOKEN


def test_a_token_is_stored_as_its_hash_only(docs):
    share = make(docs, "hash")
    platform = docs.http.application.extensions["trellis"]
    with platform.engine.connect() as connection:
        rows = connection.execute(text("SELECT t::text FROM trellis.public_shares t")).scalars()
        assert not [row for row in rows if share["token"] in row]


def test_who_may_call_what(docs, anyone):
    share, foreign = make(docs, {"doc": 7}), make(docs, {"doc": 7}, "other")
    ben = docs.sign_up("eve@example.com")
    assert call(anyone, "about") == LET_IN
    assert call(anyone, "show", {"doc": 7}) == NO_TOKEN
    assert call(anyone, "secret") == NO_TOKEN
    assert error(anyone.post(RPC, data=b"{")) == NO_TOKEN
    assert error(anyone.post("/apps/nope/rpc", {"method": "about"})) == NO_TOKEN
    holder = bearer(docs, share)
    assert call(holder, "show", {"doc": 7}) == LET_IN
    assert call(holder, "about") == LET_IN
    assert call(holder, "show", {"doc": 8}) == NOT_COVERED
    assert call(holder, "show", {"doc": "7"}) == NOT_COVERED
    assert call(holder, "show") == NOT_COVERED
    assert call(holder, "secret", {"doc": 7}) == NOT_COVERED
    assert call(bearer(docs, foreign), "about") == NOT_COVERED
    assert error(holder.post(RPC, data=b"{")) == (400, "request body is not valid JSON")
    assert error(ApiClient(docs.http, "A" * 43).post(RPC, data=b"{")) == BAD_TOKEN
    assert call(holder, "__x") == (400, "method '__x' is reserved")
    assert call(ben, "about") == LET_IN
    assert call(ben, "show", {"doc": 7}) == (403, "missing permission: app:docs:invoke")
    uses = {row["id"]: row["accessCount"] for row in docs.get(SHARES).json}
    assert uses[share["id"]] == 2


def test_share_tokens_open_nothing_else(docs):
    holder = bearer(docs, make(docs, "else"))
    for path in ("/apps", "/apps/docs/collections/x", "/auth/me", SHARES):
        assert error(holder.get(path)) == BAD_TOKEN


def test_shares_go_with_their_app_and_their_creator(docs):
    gone = {**MANIFEST, "appId": "gone", "name": "Gone"}
    docs.post("/apps", gone)
    share = make(docs, None, "gone")
    assert docs.delete("/apps/gone").status_code == 200
    assert error(bearer(docs, share).get("/public/share/info")) == BAD_TOKEN
