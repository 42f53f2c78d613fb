"""What happens to accounts and authority is on record, in the transaction of the change."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.audit import security
from app.auth import service as auth_service
from app.auth.messages import PruneSignIns
from tasks import auth as auth_tasks
from tests.fakes.oidc import CLIENT_ID, running_provider
from tests.support.api import PASSWORD, error


@pytest.fixture
def log(platform):
    """Return (event, actor, subject) of all entries, oldest first."""

    def read():
        with platform.uow() as uow:
            entries = security.list_entries(uow.session, limit=1000)
        return [
            (entry.event, str(entry.actor_uid), str(entry.subject_uid), entry.details)
            for entry in reversed(entries)
        ]

    return read


def kinds(entries):
    return [entry[0] for entry in entries]


def test_the_life_of_a_user(client, admin, log):
    nora = client.sign_up("nora@acme.test")
    client.post("/auth/login", {"email": "nora@acme.test", "password": "wrong"})
    login = client.post("/auth/login", {"email": "nora@acme.test", "password": PASSWORD}).json
    client.post("/auth/logout", {"refreshToken": login["refreshToken"]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "base"})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "base"})
    admin.post("/roles/revoke", {"userId": nora.user_id, "role": "base"})
    admin.delete(f"/users/{nora.user_id}")
    entries = log()[3:]  # the administrator's own registration, role and login
    assert entries == [
        ("user_registered", "None", nora.user_id, {"email": "nora@acme.test"}),
        ("login_succeeded", nora.user_id, nora.user_id, {}),
        ("login_failed", "None", nora.user_id, {"email": "nora@acme.test"}),
        ("login_succeeded", nora.user_id, nora.user_id, {}),
        ("logged_out", nora.user_id, nora.user_id, {}),
        ("role_assigned", admin.user_id, nora.user_id, {"role": "base"}),
        ("role_revoked", admin.user_id, nora.user_id, {"role": "base"}),
        ("user_deleted", admin.user_id, nora.user_id, {"email": "nora@acme.test"}),
    ]


def test_the_first_user_is_on_record_as_administrator(admin, log):
    assert log()[:2] == [
        ("user_registered", "None", admin.user_id, {"email": "admin@example.com"}),
        ("role_assigned", "None", admin.user_id, {"role": "admin"}),
    ]


def test_roles_are_on_record(admin, log):
    admin.post("/roles", {"name": "r", "permissions": ["app:x:invoke"]})
    admin.patch("/roles/r", {"permissions": []})
    admin.delete("/roles/r")
    assert kinds(log())[-3:] == ["role_created", "role_updated", "role_deleted"]
    assert log()[-3][3] == {"role": "r", "inherits": [], "permissions": ["app:x:invoke"]}


def test_what_was_refused_leaves_no_trace(admin, log):
    before = log()
    assert error(admin.post("/roles", {"name": "base"}))[0] == 400
    assert error(admin.delete(f"/users/{admin.user_id}"))[0] == 400
    assert log() == before


def test_a_failed_login_of_an_unknown_address_keeps_no_text(client, log):
    client.post("/auth/login", {"email": "Pa55word-typed-here", "password": "x"})
    assert log() == [("login_failed", "None", "None", {"email": None})]


def test_where_it_came_from(client, platform):
    client.post("/auth/login", {"email": "a@b.test", "password": "x"})
    with platform.uow() as uow:
        (entry,) = security.list_entries(uow.session, limit=1, event="login_failed")
    assert entry.client_address == "127.0.0.1"


def test_single_sign_on_is_on_record(client, admin, log):
    with running_provider() as provider:
        body = {
            "id": "sso",
            "displayName": "S",
            "issuerUrl": provider.url,
            "clientId": CLIENT_ID,
            "clientSecret": "geheim-geheim",
        }
        admin.post("/auth/oidc/providers", body)
        token = {"providerId": "sso", "idToken": provider.sign()}
        assert client.post("/auth/oidc/token-exchange", token).status_code == 200
        admin.delete("/auth/oidc/providers/sso?force=true")
    assert kinds(log())[-5:] == [
        "provider_saved",
        "user_provisioned",
        "role_assigned",
        "token_exchanged",
        "provider_deleted",
    ]
    assert "geheim" not in repr(log())


def test_no_credential_is_on_record(client, admin, log):
    client.post("/auth/login", {"email": "admin@example.com", "password": "wrong-Passw0rd"})
    assert PASSWORD not in repr(log())
    assert "wrong-Passw0rd" not in repr(log())


def test_pages_go_back_in_time(admin, platform):
    with platform.uow() as uow:
        newest = security.list_entries(uow.session, limit=2)
        older = security.list_entries(uow.session, limit=2, before=newest[-1].id)
    assert [e.id for e in newest] == sorted((e.id for e in newest), reverse=True)
    assert older
    assert older[0].id < newest[-1].id


def test_upkeep_deletes_what_has_run_out_and_nothing_else(client, admin, platform):
    states = (
        "INSERT INTO trellis.oidc_state (state, provider_id, nonce, pkce_verifier, created_at)"
        " VALUES ('old', 'p', 'n', 'v', now() - interval '11 min'), ('new', 'p', 'n', 'v', now())"
    )
    sessions = (
        "INSERT INTO trellis.sessions (id, user_id, expires_at)"
        " SELECT gen_random_uuid(), id, now() - interval '1 s' FROM trellis.users"
    )
    nonces = (
        "INSERT INTO trellis.auth_nonces (nonce_hash, user_id, session_id, created_at)"
        " SELECT decode(hash, 'hex'), s.user_id, s.id, now() - age FROM trellis.sessions s,"
        " (VALUES ('01', interval '31 s'), ('02', interval '1 s')) AS n (hash, age)"
        " WHERE s.expires_at > now()"
    )
    with platform.engine.begin() as connection:
        for statement in (states, nonces, sessions):
            connection.execute(text(statement))
    auth_tasks.prune(platform, **PruneSignIns().arguments())
    with platform.engine.connect() as connection:
        assert list(connection.scalars(text("SELECT state FROM trellis.oidc_state"))) == ["new"]
        assert connection.scalar(text("SELECT count(*) FROM trellis.sessions")) == 1
        left = list(connection.scalars(text("SELECT nonce_hash FROM trellis.auth_nonces")))
        assert [bytes(value) for value in left] == [b"\x02"]


def test_find_enabled_knows_who_may_act(admin, platform):
    from uuid import UUID, uuid4

    from app.core.ids import SYSTEM_USER_ID

    with platform.uow() as uow:
        found = auth_service.find_enabled(uow.session, UUID(admin.user_id))
        assert found.email == "admin@example.com"
        assert auth_service.find_enabled(uow.session, uuid4()) is None
        assert auth_service.find_enabled(uow.session, SYSTEM_USER_ID) is None
    assert timedelta(seconds=30) == auth_service.NONCE_TTL
