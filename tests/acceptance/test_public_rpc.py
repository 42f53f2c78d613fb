"""Public RPCs and shares through real processes: what their calls may see and do.

Source: REST contract part 20, sections 3.12 and 8.
"""

import pytest

WORKER = """
from trellis_worker import serve

def attempt(work):
    try:
        return work()
    except Exception as exc:
        return f"error: {exc}"

def show(params, caller, ctx):
    notes = ctx.collection("notes")
    return {
        "caller": None if caller is None else caller.user_id,
        "rows": attempt(lambda: [row["text"] for row in notes.find({})]),
        "sql": attempt(lambda: ctx.sql("SELECT count(*) FROM notes").rows[0][0]),
        "insert": attempt(lambda: notes.insert({"text": "x"})),
        "sql_insert": attempt(
            lambda: ctx.sql("INSERT INTO notes (text) VALUES ('x')").row_count),
        "enqueue": attempt(lambda: ctx.enqueue({"a": 1})),
    }
serve(rpc={"show": show, "scoped": show})
"""
CONTRACT = [{"entityName": "notes", "fields": [{"name": "text", "type": "text"}]}]
PUBLIC = {"rpcs": [{"name": "show"}, {"name": "scoped", "scope": ["doc"]}]}
WRITES = ("insert", "sql_insert", "enqueue")


@pytest.fixture(scope="module")
def platform(shared_platform):
    shared_platform.install(
        "pages",
        WORKER,
        dataContract=CONTRACT,
        public=PUBLIC,
        permissions={"permissions": [{"key": "public.share"}]},
    )
    shared_platform.admin.post("/apps/pages/collections/notes", json={"text": "hello"})
    return shared_platform


def call(client, method, params=None):
    answer = client.post("/apps/pages/rpc", json={"method": method, "params": params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer):
    return all(str(answer[name]).startswith("error: ") for name in WRITES)


def test_nobody_sees_and_changes_nothing(platform):
    with platform.stack.client() as anyone:
        answer = call(anyone, "show")
    assert answer["caller"] is None
    assert answer["rows"] == "error: missing permission: app:pages:notes.read"
    assert answer["sql"] == 0
    assert refused(answer), answer


def test_a_share_sees_what_its_creator_may_read_now_and_changes_nothing(platform):
    admin = platform.admin
    ben = platform.stack.sign_up("ben.shares@example.com")
    user_id = ben.get("/auth/me").json()["id"]
    role = {"name": "page_sharer", "permissions": ["app:pages:*"]}
    admin.post("/roles", json=role).raise_for_status()
    given = {"userId": user_id, "role": "page_sharer"}
    admin.post("/roles/assign", json=given).raise_for_status()
    share = ben.post("/apps/pages/public-shares", json={"context": {"doc": 7}}).json()
    with platform.stack.client(share["token"]) as holder:
        answer = call(holder, "scoped", {"doc": 7})
        assert answer["caller"] is None
        assert answer["rows"] == ["hello"]
        assert answer["sql"] == 1
        assert refused(answer), answer
        admin.post("/roles/revoke", json=given).raise_for_status()
        answer = call(holder, "scoped", {"doc": 7})
        assert answer["rows"] == "error: missing permission: app:pages:notes.read"
        assert answer["sql"] == 0


def test_a_user_without_the_invoke_key_calls_what_anyone_may(platform):
    eve = platform.stack.sign_up("eve.shares@example.com")
    assert call(eve, "show")["caller"] == eve.get("/auth/me").json()["id"]
    denied = eve.post("/apps/pages/rpc", json={"method": "scoped"})
    assert denied.json() == {"error": "missing permission: app:pages:invoke"}
