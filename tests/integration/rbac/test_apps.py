"""Keys and automatic roles of apps and integrations."""

from uuid import UUID

import pytest
from sqlalchemy import text

from app.rbac import service
from tests.support.api import ApiClient


@pytest.fixture
def nora(client, admin):
    return client.sign_up("nora@acme.test")


def run(platform, function, *arguments):
    with platform.uow() as uow:
        return function(uow, *arguments)


def registered(admin, prefix):
    keys = {row["key"]: row["description"] for row in admin.get("/permissions/available").json}
    return {key: text for key, text in keys.items() if key.startswith(prefix)}


def test_installing_again_rewrites_the_keys_of_that_app_only(admin, platform):
    run(platform, service.replace_app_keys, "erp", {"app:erp:invoke": "x"})
    run(platform, service.replace_app_keys, "crm", {"app:crm:a": "A", "app:crm:b": "B"})
    run(platform, service.replace_app_keys, "crm", {"app:crm:b": "changed", "app:crm:c": "C"})
    assert registered(admin, "app:") == {
        "app:crm:b": "changed",
        "app:crm:c": "C",
        "app:erp:invoke": "x",
    }
    run(platform, service.replace_app_keys, "crm", {})
    assert registered(admin, "app:crm:") == {}


def test_the_installer_holds_everything_of_the_app(admin, nora, platform):
    user_id = UUID(nora.user_id)
    for _ in range(2):
        run(platform, service.grant_app_admin, "crm", user_id)
    assert nora.get("/permissions").json == {
        "roles": ["app:crm:admin"],
        "permissions": ["app:crm:*"],
    }


def test_uninstalling_takes_keys_and_automatic_roles_and_nothing_else(admin, nora, platform):
    user_id = UUID(nora.user_id)
    admin.post("/roles", {"name": "mine", "permissions": ["app:crm:invoke"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "mine"})
    run(platform, service.replace_app_keys, "crm", {"app:crm:invoke": ""})
    run(platform, service.grant_app_admin, "crm", user_id)
    for _ in range(2):
        run(platform, service.remove_app, "crm")
    assert registered(admin, "app:crm:") == {}
    assert nora.get("/permissions").json == {"roles": ["mine"], "permissions": ["app:crm:invoke"]}
    # A later install by somebody else gives the first installer nothing back.
    run(platform, service.grant_app_admin, "crm", UUID(admin.user_id))
    assert nora.get("/permissions").json["permissions"] == ["app:crm:invoke"]


def test_an_agent_gets_its_role_only_while_it_has_none(admin, platform):
    with platform.engine.begin() as connection:
        agent = connection.execute(
            text(
                "INSERT INTO trellis.users (id, email, kind, is_system) VALUES"
                " (gen_random_uuid(), 'agent+crm@localhost', 'agent', true) RETURNING id"
            )
        ).scalar_one()
    assert run(platform, service.grant_agent_role, "crm", agent, ["app:crm:invoke"])
    assert not run(platform, service.grant_agent_role, "crm", agent, ["*"])
    assert admin.get(f"/permissions/{agent}").json["permissions"] == ["app:crm:invoke"]


def test_keys_of_integrations_come_and_go(admin, platform):
    keys = {"integration:mail:send": "send", "integration:mail:manage": "manage"}
    run(platform, service.register_keys, keys)
    run(platform, service.register_keys, {"integration:mailer:send": "other"})
    assert registered(admin, "integration:mail:") == keys
    run(platform, service.unregister_keys, "integration:mail:")
    assert registered(admin, "integration:") == {"integration:mailer:send": "other"}


def test_nobody_in_charge(client, platform):
    assert run(platform, service.no_human_holds_a_role)
    client.post("/auth/register", {"email": "a@x.test", "password": "Str0ngPass!x"})
    assert not run(platform, service.no_human_holds_a_role)
    with platform.engine.begin() as connection:
        connection.execute(text("DELETE FROM trellis.rbac_assignments"))
    assert run(platform, service.no_human_holds_a_role)
    first = ApiClient(client.http).log_in("a@x.test")
    run(platform, service.make_admin, UUID(first.user_id))
    assert not run(platform, service.no_human_holds_a_role)
    assert first.get("/permissions").json["permissions"] == ["*"]
