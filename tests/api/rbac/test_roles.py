"""Roles, assignments and permissions (contract part 10, sections 7 and 8)."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.support.api import error


def permissions(client):
    return client.get("/permissions").json


@pytest.fixture
def nora(client, admin):
    return client.sign_up("nora@acme.test")


def test_the_built_in_roles_are_there(admin):
    roles = {role["name"]: role for role in admin.get("/roles").json}
    assert set(roles) == {"admin", "base"}
    assert roles["admin"]["permissions"] == ["*"]
    assert roles["base"]["permissions"] == []
    assert set(roles["base"]) == {"name", "description", "inherits", "permissions"}


def test_create_list_change_delete(admin):
    answer = admin.post(
        "/roles",
        {
            "name": "support_lead",
            "description": "First-line support",
            "inherits": ["base"],
            "permissions": ["app:desk:tickets.read", "app:desk:tickets.update"],
        },
    )
    assert (answer.status_code, answer.json) == (200, {"message": "role 'support_lead' created"})
    assert admin.get("/roles").json[-1] == {
        "name": "support_lead",
        "description": "First-line support",
        "inherits": ["base"],
        "permissions": ["app:desk:tickets.read", "app:desk:tickets.update"],
    }
    answer = admin.patch("/roles/support_lead", {"description": "", "permissions": []})
    assert (answer.status_code, answer.json) == (200, {"message": "role 'support_lead' updated"})
    assert admin.get("/roles").json[-1] == {
        "name": "support_lead",
        "description": None,
        "inherits": ["base"],
        "permissions": [],
    }
    answer = admin.delete("/roles/support_lead")
    assert (answer.status_code, answer.json) == (200, {"message": "role 'support_lead' deleted"})
    assert error(admin.delete("/roles/support_lead")) == (404, "role 'support_lead' not found")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "role name is required"),
        ({"name": ""}, "role name is required"),
        ({"name": None}, "role name is required"),
        ({"name": 5}, "field 'name' must be a string"),
        ({"name": "a/b"}, "invalid role name"),
        ({"name": " a"}, "invalid role name"),
        ({"name": "a\n"}, "invalid role name"),
        ({"name": "a\0b"}, "invalid role name"),
        ({"name": "x" * 129}, "invalid role name"),
        ({"name": "admin"}, "role name 'admin' is reserved"),
        ({"name": "base"}, "role 'base' already exists"),
        ({"name": "r", "permissions": ["app:a,b:c"]}, "invalid permission key 'app:a,b:c'"),
        ({"name": "r", "permissions": ["APP:x"]}, "invalid permission key 'APP:x'"),
        ({"name": "r", "permissions": [""]}, "invalid permission key ''"),
        ({"name": "r", "permissions": "app:x"}, "field 'permissions' must be an array"),
        ({"name": "r", "permissions": [5]}, "field 'permissions.0' must be a string"),
        ({"name": "r", "inherits": ["r"]}, "role inheritance would form a cycle through 'r'"),
    ],
)
def test_bad_roles_are_refused(admin, body, text):
    assert error(admin.post("/roles", body)) == (400, text)
    assert len(admin.get("/roles").json) == 2


def test_cycles_of_two_and_three_are_refused(admin):
    admin.post("/roles", {"name": "a", "inherits": ["b"]})
    assert error(admin.post("/roles", {"name": "b", "inherits": ["a"]})) == (
        400,
        "role inheritance would form a cycle through 'b'",
    )
    admin.post("/roles", {"name": "b", "inherits": ["c"]})
    assert error(admin.post("/roles", {"name": "c", "inherits": ["a"]}))[0] == 400
    admin.post("/roles", {"name": "c"})
    assert error(admin.patch("/roles/c", {"inherits": ["a"]}))[0] == 400
    assert error(admin.patch("/roles/c", {"inherits": ["c"]}))[0] == 400


def test_two_changes_cannot_close_a_cycle_together(admin):
    for _ in range(5):
        admin.post("/roles", {"name": "a"})
        admin.post("/roles", {"name": "b"})
        statuses = in_parallel(
            lambda: admin.patch("/roles/a", {"inherits": ["b"]}).status_code,
            lambda: admin.patch("/roles/b", {"inherits": ["a"]}).status_code,
        )
        assert sorted(statuses) == [200, 400]
        admin.delete("/roles/a")
        admin.delete("/roles/b")


def test_a_stored_cycle_hangs_nothing(admin, nora, platform):
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO trellis.rbac_roles (name, inherits, permissions) VALUES"
                " ('a', '{b}', '{app:a:x}'), ('b', '{a}', '{app:b:x}')"
            )
        )
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "a"})
    assert permissions(nora) == {"roles": ["a", "b"], "permissions": ["app:a:x", "app:b:x"]}
    assert admin.post("/roles", {"name": "c", "inherits": ["a"]}).status_code == 200


@pytest.mark.parametrize(
    ("name", "body", "status", "text"),
    [
        ("base", {}, 400, "nothing to update"),
        ("base", {"description": None}, 400, "nothing to update"),
        ("admin", {"permissions": []}, 400, "permissions and parents of role 'admin' are fixed"),
        ("admin", {"inherits": []}, 400, "permissions and parents of role 'admin' are fixed"),
        ("base", {"permissions": ["X"]}, 400, "invalid permission key 'X'"),
        ("nope", {"description": "x"}, 404, "role 'nope' not found"),
    ],
)
def test_bad_changes_are_refused(admin, name, body, status, text):
    assert error(admin.patch(f"/roles/{name}", body)) == (status, text)


def test_the_description_of_admin_may_change(admin):
    assert admin.patch("/roles/admin", {"description": "Boss"}).status_code == 200
    assert error(admin.delete("/roles/admin")) == (400, "role 'admin' cannot be deleted")


def test_permissions_are_the_union_of_everything_inherited(admin, nora):
    admin.post("/roles", {"name": "c", "permissions": ["app:c:x"]})
    admin.post("/roles", {"name": "b", "inherits": ["c", "ghost"], "permissions": ["app:b:x"]})
    admin.post("/roles", {"name": "a", "inherits": ["b"], "permissions": ["app:a:x", "app:b:x"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "a"})
    assert permissions(nora) == {
        "roles": ["a", "b", "c", "ghost"],
        "permissions": ["app:a:x", "app:b:x", "app:c:x"],
    }
    admin.patch("/roles/c", {"permissions": ["app:c:y"]})
    assert permissions(nora)["permissions"] == ["app:a:x", "app:b:x", "app:c:y"]
    admin.delete("/roles/c")
    assert permissions(nora) == {
        "roles": ["a", "b", "c", "ghost"],
        "permissions": ["app:a:x", "app:b:x"],
    }


def test_inheritance_is_deep(admin, nora):
    for level in range(70):
        admin.post(
            "/roles",
            {"name": f"r{level}", "inherits": [f"r{level + 1}"], "permissions": [f"app:x:{level}"]},
        )
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "r0"})
    assert len(permissions(nora)["permissions"]) == 70


def test_a_change_of_an_inherited_role_acts_on_the_next_request(admin, nora):
    admin.post("/roles", {"name": "inner"})
    admin.post("/roles", {"name": "outer", "inherits": ["inner"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "outer"})
    assert error(nora.post("/roles", {"name": "x"}))[0] == 403
    admin.patch("/roles/inner", {"permissions": ["*"]})
    assert nora.post("/roles", {"name": "x"}).status_code == 200
    admin.patch("/roles/inner", {"permissions": []})
    assert error(nora.post("/roles", {"name": "y"})) == (403, "administrator permission required")


def test_assign_twice_is_one_row_and_revoke_twice_is_404(admin, nora):
    body = {"userId": nora.user_id, "role": "base"}
    for _ in range(2):
        answer = admin.post("/roles/assign", body)
        assert (answer.status_code, answer.json) == (200, {"message": "role 'base' assigned"})
        rows = admin.get("/roles/assignments").json
        assert [(row["userId"], row["role"]) for row in rows] == [
            (nora.user_id, "base"),
            (admin.user_id, "admin"),
        ]
        assert rows[0]["assignedAt"].endswith("Z")
    first = rows[0]["assignedAt"]
    admin.post("/roles/assign", body)
    assert admin.get("/roles/assignments").json[0]["assignedAt"] == first
    answer = admin.post("/roles/revoke", body)
    assert (answer.status_code, answer.json) == (200, {"message": "role 'base' revoked"})
    assert error(admin.post("/roles/revoke", body)) == (404, "user does not hold role 'base'")


def test_assign_checks_role_and_user(admin):
    def assign(**body):
        return error(admin.post("/roles/assign", body))

    known = admin.user_id
    assert assign(role="base") == (400, "field 'userId' is required")
    assert assign(userId=known) == (400, "field 'role' is required")
    assert assign(userId="x", role="base") == (400, "userId must be a UUID")
    assert assign(userId=5, role="base") == (400, "userId must be a UUID")
    assert assign(userId=known, role="nope") == (400, "role 'nope' does not exist")
    assert assign(userId=str(uuid4()), role="base") == (404, "user not found")
    assert assign(userId="00000000-0000-0000-0000-000000000001", role="base") == (
        404,
        "user not found",
    )


def test_agents_take_roles_like_humans(admin, platform):
    agent = str(uuid4())
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO trellis.users (id, email, kind, is_system)"
                " VALUES (:id, 'agent+crm@localhost', 'agent', true)"
            ),
            {"id": agent},
        )
    assert admin.post("/roles/assign", {"userId": agent, "role": "base"}).status_code == 200
    assert admin.get(f"/permissions/{agent}").json == {"roles": ["base"], "permissions": []}


def test_deleting_a_role_removes_its_assignments(admin, nora):
    admin.post("/roles", {"name": "r", "permissions": ["app:a:x"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "r"})
    assert permissions(nora)["permissions"] == ["app:a:x"]
    admin.delete("/roles/r")
    assert permissions(nora) == {"roles": [], "permissions": []}
    admin.post("/roles", {"name": "r", "permissions": ["app:a:x"]})
    assert permissions(nora) == {"roles": [], "permissions": []}


def test_the_last_administrator_cannot_be_revoked(admin, nora):
    body = {"userId": admin.user_id, "role": "admin"}
    assert error(admin.post("/roles/revoke", body)) == (400, "cannot revoke the last admin")
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "admin"})
    assert admin.post("/roles/revoke", body).status_code == 200
    assert error(admin.get("/roles/assignments"))[0] == 403


def test_disabled_administrators_and_agents_do_not_count(admin, nora, platform):
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE id = :u"), {"u": nora.user_id}
        )
        connection.execute(
            text(
                "INSERT INTO trellis.users (id, email, kind, is_system)"
                " VALUES (gen_random_uuid(), 'agent+crm@localhost', 'agent', true)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO trellis.rbac_assignments (user_id, role) SELECT id, 'admin'"
                " FROM trellis.users ON CONFLICT DO NOTHING"
            )
        )
    body = {"userId": admin.user_id, "role": "admin"}
    assert error(admin.post("/roles/revoke", body)) == (400, "cannot revoke the last admin")
    # Taking the role from one that is not counted is no loss.
    assert admin.post("/roles/revoke", {"userId": nora.user_id, "role": "admin"}).status_code == 200


def test_two_administrators_revoking_each_other_leave_one(admin, nora):
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "admin"})
    statuses = in_parallel(
        lambda: admin.post("/roles/revoke", {"userId": nora.user_id, "role": "admin"}).status_code,
        lambda: nora.post("/roles/revoke", {"userId": admin.user_id, "role": "admin"}).status_code,
    )
    assert sum(status == 200 for status in statuses) == 1


def test_permissions_of_others_are_for_administrators(admin, nora):
    own = nora.get(f"/permissions/{nora.user_id.upper()}")
    assert (own.status_code, own.json) == (200, {"roles": [], "permissions": []})
    assert error(nora.get(f"/permissions/{admin.user_id}")) == (
        403,
        "administrator permission required",
    )
    assert admin.get(f"/permissions/{uuid4()}").json == {"roles": [], "permissions": []}
    assert error(admin.get("/permissions/nope")) == (400, "not a valid UUID: 'nope'")


def test_available_keys_are_those_one_covers(admin, nora):
    keys = admin.get("/permissions/available").json
    assert [row["key"] for row in keys] == sorted(row["key"] for row in keys)
    assert {"admin:audit.read", "tool:call_action", "platform:apps.create"} <= {
        row["key"] for row in keys
    }
    assert all(set(row) == {"key", "description"} for row in keys)
    assert nora.get("/permissions/available").json == []
    admin.post("/roles", {"name": "r", "permissions": ["admin:audit.read"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "r"})
    assert [row["key"] for row in nora.get("/permissions/available").json] == ["admin:audit.read"]


ADMIN_ROUTES = [
    ("POST", "/roles", {"name": "x"}),
    ("PATCH", "/roles/base", {"description": "x"}),
    ("DELETE", "/roles/base", None),
    ("GET", "/roles/assignments", None),
    ("POST", "/roles/assign", {}),
    ("POST", "/roles/revoke", {}),
    ("DELETE", "/users/nope", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMIN_ROUTES)
def test_administrators_only(client, nora, method, path, body):
    assert error(client.request(method, path, json=body)) == (401, "authentication required")
    assert error(nora.request(method, path, json=body)) == (
        403,
        "administrator permission required",
    )


def in_parallel(*functions):
    results = []
    threads = [threading.Thread(target=lambda f=f: results.append(f())) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
