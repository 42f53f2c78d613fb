"""Register, sign in, refresh, sign out (contract part 10, sections 4 and 5)."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.factory import create_app
from app.rbac import service as rbac_service
from tests.support.api import PASSWORD, ApiClient, error


def register(client, email="nora@acme.test", password=PASSWORD, **more):
    return client.post("/auth/register", {"email": email, "password": password, **more})


def with_auth(platform, **changes):
    settings = platform.settings
    auth = replace(settings.auth, **changes)
    return ApiClient(
        create_app(replace(platform, settings=replace(settings, auth=auth))).test_client()
    )


def test_register_returns_the_user_and_no_tokens(client):
    answer = register(client, displayName="Nora Lind", unknown="field")
    assert answer.status_code == 201
    assert set(answer.json) == {"user"}
    user = answer.json["user"]
    assert set(user) == {"id", "email", "displayName", "createdAt"}
    assert user["email"] == "nora@acme.test"
    assert user["displayName"] == "Nora Lind"
    assert str(UUID(user["id"])) == user["id"]
    assert user["createdAt"].endswith("+00:00")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(user["createdAt"])).seconds) < 60


@pytest.mark.parametrize(
    "email",
    [None, 5, "", " ", "nobody", "@x", "x@", "a@b@c", "a b@c.test", "a\tb@c", "a@" + "x" * 254],
)
def test_a_malformed_address_is_refused(client, email):
    assert error(register(client, email)) == (400, "a valid email is required")


def test_a_missing_address_is_refused(client):
    assert error(client.post("/auth/register", {"password": PASSWORD})) == (
        400,
        "a valid email is required",
    )
    assert error(client.post("/auth/register", {"email": "a@b.test"})) == (
        400,
        "field 'password' is required",
    )


@pytest.mark.parametrize(
    "email", ["system@localhost", "agent+crm@localhost", "sa+x@localhost", " SYSTEM@LocalHost "]
)
def test_reserved_addresses_are_refused(client, email):
    assert error(register(client, email)) == (400, "this email is reserved")


@pytest.mark.parametrize(
    "password", ["Short1Aa", "alllowercase1", "ALLUPPERCASE1", "NoDigitsHere", ""]
)
def test_weak_passwords_are_refused(client, password):
    assert error(register(client, password=password)) == (
        400,
        "password needs at least 10 characters with an upper-case letter, a lower-case letter"
        " and a digit",
    )


@pytest.mark.parametrize("password", ["Gr8Enough-pw", "Ωμέγα-ωμέγα٣", "Aa1" + "x" * 1021])
def test_good_passwords_work(client, password):
    assert register(client, password=password).status_code == 201
    assert client.log_in("nora@acme.test", password).token


def test_a_password_is_at_most_1024_bytes(client):
    assert error(register(client, password="Aa1" + "x" * 1022))[0] == 400


def test_a_display_name_has_a_limit_and_a_type(client):
    assert register(client, "a@x.test", displayName="x" * 255).status_code == 201
    assert error(register(client, "b@x.test", displayName="x" * 256))[0] == 400
    assert error(register(client, "b@x.test", displayName=5)) == (
        400,
        "field 'displayName' must be a string",
    )
    assert error(register(client, "b@x.test", displayName="a\0b"))[0] == 400


def test_an_address_is_taken_in_any_case(client):
    assert register(client, "Nora@Acme.test").json["user"]["email"] == "nora@acme.test"
    assert error(register(client, " NORA@acme.TEST ")) == (
        400,
        "email 'nora@acme.test' is already registered",
    )


def test_the_first_user_is_administrator_and_the_second_nothing(client):
    first, second = client.sign_up("a@x.test"), client.sign_up("b@x.test")
    assert first.get("/permissions").json == {"roles": ["admin"], "permissions": ["*"]}
    assert second.get("/permissions").json == {"roles": [], "permissions": []}


def test_twenty_parallel_first_registrations_make_one_administrator(client, platform):
    statuses = []

    def one(number):
        statuses.append(register(client, f"user{number}@x.test").status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 20
    with platform.engine.connect() as connection:
        rows = connection.execute(text("SELECT role FROM trellis.rbac_assignments")).scalars()
        assert list(rows) == ["admin"]


def test_parallel_registrations_of_one_address_make_one_user(client, admin):
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(register(client).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [400] * 5
    assert [user["email"] for user in admin.get("/users").json] == [
        "admin@example.com",
        "nora@acme.test",
    ]


def test_login_returns_four_fields(client):
    registered = register(client).json["user"]
    answer = client.post("/auth/login", {"email": " Nora@ACME.test", "password": PASSWORD})
    assert answer.status_code == 200
    assert set(answer.json) == {"accessToken", "refreshToken", "expiresIn", "user"}
    assert answer.json["expiresIn"] == 900
    assert answer.json["user"] == registered
    assert answer.headers["Cache-Control"] == "no-store"


def test_every_failed_login_reads_the_same(client, platform):
    for email in ("nora@acme.test", "off@acme.test", "sso@acme.test"):
        register(client, email)
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE email = 'off@acme.test'")
        )
        connection.execute(
            text("UPDATE trellis.users SET password_hash = NULL WHERE email = 'sso@acme.test'")
        )
    cases = {
        "nora@acme.test": "wrong",
        "nobody@acme.test": PASSWORD,
        "off@acme.test": PASSWORD,
        "sso@acme.test": PASSWORD,
        "system@localhost": "",
        "no address": PASSWORD,
        "nul\0@acme.test": PASSWORD,
    }
    for email, password in cases.items():
        answer = client.post("/auth/login", {"email": email, "password": password})
        assert error(answer) == (401, "invalid email or password"), email


def test_an_agent_cannot_log_in_even_with_a_password(client, platform):
    register(client)
    with platform.engine.begin() as connection:
        connection.execute(text("UPDATE trellis.users SET kind = 'agent' WHERE kind = 'human'"))
    answer = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD})
    assert error(answer)[0] == 401


def test_me_is_the_user_of_the_login(client):
    register(client)
    answer = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD})
    nora = ApiClient(client.http, answer.json["accessToken"])
    assert nora.get("/auth/me").json == answer.json["user"]
    assert error(client.get("/auth/me")) == (401, "authentication required")


def test_a_refresh_token_works_until_the_logout(client):
    register(client)
    answer = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD})
    body = {"refreshToken": answer.json["refreshToken"]}
    for _ in range(2):
        refreshed = client.post("/auth/refresh", body, headers={"Authorization": "Bearer junk"})
        assert refreshed.status_code == 200
        assert set(refreshed.json) == {"accessToken", "expiresIn"}
        assert refreshed.headers["Cache-Control"] == "no-store"
        assert (
            ApiClient(client.http, refreshed.json["accessToken"]).get("/auth/me").status_code == 200
        )
    for _ in range(2):
        ended = client.post("/auth/logout", body)
        assert (ended.status_code, ended.json) == (200, {"message": "logged out"})
    assert error(client.post("/auth/refresh", body)) == (401, "session ended")
    # The access token lives on until it expires.
    assert ApiClient(client.http, answer.json["accessToken"]).get("/auth/me").status_code == 200


def test_one_logout_does_not_end_other_sessions(client):
    register(client)
    login = {"email": "nora@acme.test", "password": PASSWORD}
    one, two = (client.post("/auth/login", login).json["refreshToken"] for _ in range(2))
    client.post("/auth/logout", {"refreshToken": one})
    assert client.post("/auth/refresh", {"refreshToken": two}).status_code == 200


def test_an_expired_session_has_ended(client, platform):
    register(client)
    login = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD}).json
    with platform.engine.begin() as connection:
        connection.execute(text("UPDATE trellis.sessions SET expires_at = now()"))
    answer = client.post("/auth/refresh", {"refreshToken": login["refreshToken"]})
    assert error(answer) == (401, "session ended")


def test_refresh_of_a_disabled_or_deleted_account(client, platform, admin):
    register(client)
    login = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD}).json
    body = {"refreshToken": login["refreshToken"]}
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'nora%'")
        )
    assert error(client.post("/auth/refresh", body)) == (401, "account not available")
    admin.delete(f"/users/{login['user']['id']}")
    assert error(client.post("/auth/refresh", body)) == (401, "account not available")


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
def test_only_refresh_tokens_refresh(client, admin, path):
    assert error(client.post(path, {})) == (400, "field 'refreshToken' is required")
    assert error(client.post(path, {"refreshToken": 5})) == (
        400,
        "field 'refreshToken' must be a string",
    )
    assert error(client.post(path, {"refreshToken": "junk"})) == (401, "invalid refresh token")
    assert error(client.post(path, {"refreshToken": admin.token})) == (401, "not a refresh token")


def test_mode_shows_how_to_sign_in(client, platform):
    assert client.get("/auth/mode").json == {
        "authRequired": True,
        "setupRequired": True,
        "passwordLoginEnabled": True,
        "providers": [],
        "magicLinkEnabled": True,
    }
    client.sign_up("a@x.test")
    assert client.get("/auth/mode").json["setupRequired"] is False
    closed = with_auth(platform, disable_password_login=True)
    assert closed.get("/auth/mode").json["passwordLoginEnabled"] is False


def test_password_login_can_be_turned_off(client, platform):
    closed = with_auth(platform, disable_password_login=True)
    assert closed.get("/auth/mode").json["passwordLoginEnabled"] is True
    assert register(closed, "first@x.test").status_code == 201
    assert error(register(closed, "second@x.test")) == (403, "password registration is turned off")
    answer = closed.post("/auth/login", {"email": "first@x.test", "password": PASSWORD})
    assert error(answer) == (403, "password login is turned off")


def test_an_old_hash_is_renewed_at_login(client, platform):
    import argon2

    register(client)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    with platform.engine.begin() as connection:
        connection.execute(
            text("UPDATE trellis.users SET password_hash = :h WHERE email LIKE 'nora%'"),
            {"h": weak},
        )
    client.log_in("nora@acme.test")
    with platform.engine.connect() as connection:
        stored = connection.execute(
            text("SELECT password_hash FROM trellis.users WHERE email LIKE 'nora%'")
        ).scalar_one()
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    client.log_in("nora@acme.test")


def test_users_are_listed_by_address_without_principals_of_the_platform(client, platform, admin):
    other = client.sign_up("aaron@x.test")
    with platform.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO trellis.users (id, email, kind, is_system)"
                " VALUES (gen_random_uuid(), 'agent+crm@localhost', 'agent', true)"
            )
        )
        connection.execute(
            text("UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'aaron%'")
        )
    assert error(other.get("/users")) == (401, "invalid or expired token")
    assert [user["email"] for user in admin.get("/users").json] == [
        "aaron@x.test",
        "admin@example.com",
    ]


def test_a_deleted_user_has_no_authority_left(client, admin, platform):
    nora = client.sign_up("nora@acme.test")
    login = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD}).json
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "base"})
    answer = admin.delete(f"/users/{nora.user_id.upper()}")
    assert (answer.status_code, answer.json) == (200, {"message": "user deleted"})
    assert error(nora.get("/auth/me")) == (401, "invalid or expired token")
    assert error(client.post("/auth/refresh", {"refreshToken": login["refreshToken"]}))[0] == 401
    assert [row["userId"] for row in admin.get("/roles/assignments").json] == [admin.user_id]
    assert error(admin.delete(f"/users/{nora.user_id}")) == (404, "user not found")
    with platform.engine.connect() as connection:
        sessions = connection.execute(
            text("SELECT count(*) FROM trellis.sessions WHERE user_id = :u"), {"u": nora.user_id}
        )
        assert sessions.scalar_one() == 0


def test_deleting_needs_a_human_and_a_uuid(client, admin):
    assert error(admin.delete("/users/nope")) == (400, "not a valid UUID: 'nope'")
    assert error(admin.delete(f"/users/{uuid4()}")) == (404, "user not found")
    assert error(admin.delete("/users/00000000-0000-0000-0000-000000000001")) == (
        404,
        "user not found",
    )
    nora = client.sign_up("nora@acme.test")
    assert error(nora.delete("/users/nope")) == (403, "administrator permission required")


def test_the_last_administrator_stays(client, admin):
    assert error(admin.delete(f"/users/{admin.user_id}")) == (400, "cannot delete the last admin")
    nora = client.sign_up("nora@acme.test")
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "admin"})
    assert admin.delete(f"/users/{admin.user_id}").status_code == 200
    assert error(nora.delete(f"/users/{nora.user_id}")) == (400, "cannot delete the last admin")


def test_two_administrators_deleting_each_other_leave_one(client, admin):
    nora = client.sign_up("nora@acme.test")
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "admin"})
    statuses = in_parallel(
        lambda: admin.delete(f"/users/{nora.user_id}").status_code,
        lambda: nora.delete(f"/users/{admin.user_id}").status_code,
    )
    assert 200 in statuses
    assert sum(status == 200 for status in statuses) == 1


def test_what_a_user_owned_passes_to_whoever_deletes_them(client, admin, platform):
    nora = client.sign_up("nora@acme.test")
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "admin"})

    def owner():
        with platform.engine.connect() as connection:
            return str(
                connection.execute(
                    text("SELECT owner_of_record FROM trellis.users WHERE kind = 'agent'")
                ).scalar_one()
            )

    with platform.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO trellis.users (id, email, kind, is_system, owner_of_record)"
                " VALUES (gen_random_uuid(), 'agent+crm@localhost', 'agent', true, :owner)"
            ),
            {"owner": nora.user_id},
        )
    otto = client.sign_up("otto@acme.test")
    admin.post("/roles/assign", {"userId": otto.user_id, "role": "admin"})
    assert nora.delete(f"/users/{nora.user_id}").status_code == 200
    assert owner() == admin.user_id  # the oldest other administrator
    assert otto.delete(f"/users/{admin.user_id}").status_code == 200
    assert owner() == otto.user_id


def test_a_restricting_link_in_app_data_keeps_a_user(client, admin, platform):
    nora = client.sign_up("nora@acme.test")
    with platform.engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA desk"))
        connection.execute(
            text(
                "CREATE TABLE desk.tickets (owner uuid REFERENCES trellis.users ON DELETE RESTRICT)"
            )
        )
        connection.execute(text("INSERT INTO desk.tickets VALUES (:u)"), {"u": nora.user_id})
    assert error(admin.delete(f"/users/{nora.user_id}")) == (
        409,
        "conflict: user is still referenced by application data",
    )
    assert nora.get("/auth/me").status_code == 200


def test_built_in_rows_come_back(platform, client):
    with platform.engine.begin() as connection:
        for table in ("users", "rbac_roles", "rbac_permissions"):
            connection.execute(text(f"DELETE FROM trellis.{table}"))
    for _ in range(2):
        with platform.uow() as uow:
            rbac_service.ensure_builtin(uow)
    first = client.sign_up("a@x.test")
    assert [role["name"] for role in first.get("/roles").json] == ["admin", "base"]
    assert "tool:query_data" in [row["key"] for row in first.get("/permissions/available").json]


def in_parallel(*functions):
    results = []
    threads = [threading.Thread(target=lambda f=f: results.append(f())) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
