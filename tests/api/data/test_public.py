"""Collections that a manifest makes public.

Source: REST contract part 20, section 3.12.
"""

import pytest

from app.http import nobody
from tests.support.api import ApiClient, error

OPEN, PART, CLOSED = (f"/apps/board/collections/{name}" for name in ("notes", "polls", "drafts"))
EVERY = ["list", "read", "create", "update", "delete"]
NO_TOKEN = (401, "authentication required")
ENTITY = {
    "fields": [{"name": "title", "type": "text", "required": True}],
    "identityKind": "note",
    "identityKey": "title",
}
MANIFEST = {
    "appId": "board",
    "name": "Board",
    "dataContract": [{"entityName": name, **ENTITY} for name in ("notes", "polls", "drafts")],
    "public": {
        "collections": [
            {"entity": "notes", "actions": EVERY},
            {"entity": "polls", "actions": ["read", "create"]},
        ]
    },
}
UNKNOWN = "5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11"


@pytest.fixture
def board(admin):
    assert admin.post("/apps", MANIFEST).status_code == 200
    return admin


@pytest.fixture
def anyone(board):
    return ApiClient(board.http)


def test_listed_actions_need_no_token_and_are_audited(board, anyone):
    made = anyone.post(OPEN, {"title": "a"})
    assert made.status_code == 201, made.json
    path = f"{OPEN}/{made.json['id']}"
    assert anyone.get(path).json == made.json
    assert anyone.get(OPEN).json == anyone.get(f"{OPEN}?limit=5").json == [made.json]
    assert anyone.get(f"{OPEN}?linked=true").json == [made.json]
    assert anyone.post(f"{OPEN}/query", {"where": {"title": "a"}}).json["total"] == 1
    assert anyone.patch(path, {"title": "b"}).json["title"] == "b"
    assert anyone.delete(path).status_code == 200
    entries = board.get("/audit?app_id=board").json
    assert [e["operation"] for e in entries] == ["DELETE", "UPDATE", "INSERT"]
    assert {(e["actor_uid"], e["trigger_ref"]) for e in entries} == {(None, "public")}


def test_everything_else_needs_a_token_and_tells_nothing(board, anyone):
    made = anyone.post(PART, {"title": "a"}).json
    assert anyone.get(f"{PART}/{made['id']}").json == made
    refused = [
        anyone.get(PART),
        anyone.get(f"{PART}?limit=1"),
        anyone.post(f"{PART}/query", {}),
        anyone.patch(f"{PART}/{made['id']}", {"title": "b"}),
        anyone.patch(f"{PART}/{made['id']}", data=b"{"),
        anyone.delete(f"{PART}/{made['id']}"),
        anyone.post(f"{OPEN}/bulk", [{"title": "a"}]),
        anyone.get(CLOSED),
        anyone.post(CLOSED, {"title": "a"}),
        anyone.get(f"{CLOSED}/{UNKNOWN}"),
        anyone.get(f"{CLOSED}/junk"),
        anyone.get("/apps/nope/collections/notes"),
        anyone.get("/apps/trellis/collections/users"),
        anyone.post("/apps/NOPE/collections/notes", data=b"{"),
        anyone.post("/federated/note/query", {}),
    ]
    assert [error(answer) for answer in refused] == [NO_TOKEN] * len(refused)
    assert board.get(f"{PART}/{made['id']}").json == made


def test_content_errors_of_public_actions_are_the_usual_ones(anyone):
    assert error(anyone.post(OPEN, data=b"{")) == (400, "request body is not valid JSON")
    assert error(anyone.post(OPEN, {"x": 1})) == (400, "unknown field 'x'")
    assert error(anyone.get(f"{OPEN}/x")) == (400, "not a valid UUID: 'x'")
    assert error(anyone.get(f"{OPEN}/{UNKNOWN}")) == (404, f"no record '{UNKNOWN}'")


def test_a_token_is_always_checked_and_its_user_needs_no_permission(board, anyone):
    bad = ApiClient(board.http, "junk")
    assert error(bad.get(OPEN))[0] == 401
    assert error(ApiClient(board.http, "A" * 43).get(OPEN))[0] == 401
    ben = board.sign_up("ben@example.com")
    made = ben.post(OPEN, {"title": "a"})
    assert made.status_code == 201
    assert ben.get(OPEN).json == [made.json]
    assert error(ben.get(PART)) == (403, "missing permission: app:board:polls.read")
    (entry,) = board.get("/audit?app_id=board").json
    assert (entry["actor_uid"], entry["trigger_ref"]) == (ben.user_id, "api")


def test_an_install_changes_what_is_public_at_once(board, anyone):
    assert anyone.get(OPEN).status_code == 200
    closed = {key: value for key, value in MANIFEST.items() if key != "public"}
    assert board.post("/apps", closed).status_code == 200
    assert error(anyone.get(OPEN)) == NO_TOKEN


def test_a_list_for_nobody_is_one_page(board, anyone):
    rows = [{"title": str(n)} for n in range(1000)]
    board.post(f"{OPEN}/bulk", rows)
    board.post(f"{OPEN}/bulk", rows[:1])
    assert len(anyone.get(OPEN).json) == 1000
    assert len(anyone.get(f"{OPEN}?offset=1000").json) == 1
    assert len(board.get(OPEN).json) == 1001


def test_one_address_is_slowed_down(board, anyone, settings, monkeypatch):
    monkeypatch.setattr(nobody.time, "time", lambda: 1_000_020.0)
    limit = settings.http.public_requests_per_minute
    board.http.application.extensions["trellis"].redis.set(
        f"public:requests:{nobody.digest('127.0.0.1')}:{1_000_020 // 60}", limit - 1
    )
    assert anyone.get(OPEN).status_code == 200
    refused = anyone.get(OPEN)
    assert error(refused) == (429, "too many requests, try again later")
    assert refused.headers["Retry-After"] == "60"
    assert board.get(OPEN).status_code == 200
    monkeypatch.setattr(nobody.time, "time", lambda: 1_000_080.0)
    assert anyone.get(OPEN).status_code == 200
