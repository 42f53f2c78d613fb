"""Secrets: set, list, delete, names, values, who may."""

import pytest
from sqlalchemy import text

from app.core.crypto import Cipher, VaultError
from app.secrets import service as secrets_service
from tests.support.api import error


@pytest.fixture
def crm(admin):
    assert admin.post("/apps", {"appId": "crm", "name": "CRM"}).status_code == 200
    return admin


def set_secret(client, key, value, path="/apps/crm/secrets"):
    return client.post(path, {"key": key, "value": value})


def test_a_secret_is_set_overwritten_listed_and_deleted(crm):
    assert set_secret(crm, "SMTP_PASS", "one").json == {"message": "secret 'SMTP_PASS' set"}
    assert set_secret(crm, "SMTP_PASS", "two").status_code == 200
    assert set_secret(crm, "A1", "").status_code == 200
    assert crm.get("/apps/crm/secrets").json == ["A1", "SMTP_PASS"]
    assert crm.delete("/apps/crm/secrets/A1").json == {"message": "secret 'A1' deleted"}
    assert error(crm.delete("/apps/crm/secrets/A1")) == (404, "secret 'A1' not found")
    assert crm.get("/apps/crm/secrets").json == ["SMTP_PASS"]


@pytest.mark.parametrize("key", ["", "a b", "a-b", "ä", "x" * 129, "a\n"])
def test_a_name_outside_the_grammar_is_refused(crm, key):
    text_ = "key must be 1-128 letters, digits or underscores"
    assert error(set_secret(crm, key, "v")) == (400, text_)


@pytest.mark.parametrize(
    "key", ["TRELLIS_X", "ROOTCX_APP_ID", "LD_PRELOAD", "DYLD_X", "PATH", "IFS", "PYTHONPATH"]
)
def test_a_reserved_name_is_refused(crm, key):
    assert error(set_secret(crm, key, "v")) == (400, f"key '{key}' is reserved")
    assert set_secret(crm, key.lower(), "v").status_code == 200


@pytest.mark.parametrize("value", ["a\0b", "x" * (64 * 1024 + 1)])
def test_a_value_that_cannot_be_an_environment_variable_is_refused(crm, value):
    assert error(set_secret(crm, "K", value)) == (400, "invalid value")


def test_the_longest_value_is_taken(crm):
    assert set_secret(crm, "K" * 128, "x" * 64 * 1024).status_code == 200


def test_missing_and_mistyped_fields_are_named(crm):
    assert error(crm.post("/apps/crm/secrets", {"value": "v"})) == (400, "field 'key' is required")
    assert error(crm.post("/apps/crm/secrets", {"key": "K"})) == (400, "field 'value' is required")
    assert error(set_secret(crm, "K", 1)) == (400, "field 'value' must be a string")


def test_an_unknown_app_is_404(admin):
    for answer in (
        set_secret(admin, "K", "v"),
        admin.get("/apps/crm/secrets"),
        admin.delete("/apps/crm/secrets/K"),
    ):
        assert error(answer) == (404, "no app 'crm'")


def test_only_the_right_permission_opens_them(client, crm):
    user = client.sign_up("ben@example.com")
    for answer in (
        set_secret(user, "K", "v"),
        user.get("/apps/crm/secrets"),
        user.delete("/apps/crm/secrets/K"),
        user.get("/platform/secrets"),
        set_secret(user, "K", "v", "/platform/secrets"),
    ):
        assert error(answer) == (403, "missing permission: admin:secrets.manage")


def test_platform_secrets_tell_how_many_apps_restart(admin):
    answer = set_secret(admin, "P", "v", "/platform/secrets")
    assert answer.json == {"message": "platform secret 'P' set", "workers_restarted": 0}
    assert admin.get("/platform/secrets").json == ["P"]
    gone = admin.delete("/platform/secrets/P")
    assert gone.json == {"message": "platform secret 'P' deleted", "workers_restarted": 0}
    assert error(admin.delete("/platform/secrets/P")) == (404, "platform secret 'P' not found")


def test_values_are_never_in_an_answer_or_a_row(crm, platform):
    set_secret(crm, "K", "very-secret-value")
    assert b"very-secret-value" not in crm.get("/apps/crm/secrets").data
    with platform.uow() as uow:
        rows = uow.session.execute(text("SELECT key_name, ciphertext FROM trellis.secrets"))
        assert all(b"very-secret" not in bytes(row.ciphertext) for row in rows)


def test_app_secrets_win_over_platform_secrets(crm, platform):
    set_secret(crm, "BOTH", "platform", "/platform/secrets")
    set_secret(crm, "ONLY", "platform", "/platform/secrets")
    set_secret(crm, "BOTH", "app")
    with platform.uow() as uow:
        found = secrets_service.snapshot(uow.session, platform.cipher, "crm")
    assert found == {"BOTH": "app", "ONLY": "platform"}


def test_a_value_moved_to_another_name_does_not_decrypt(crm, platform):
    set_secret(crm, "A", "a")
    with platform.uow() as uow:
        uow.session.execute(text("UPDATE trellis.secrets SET key_name = 'B'"))
    with platform.uow() as uow, pytest.raises(VaultError, match="secret vault error"):
        secrets_service.snapshot(uow.session, platform.cipher, "crm")


def test_a_wrong_master_key_reads_nothing_but_names(crm, platform):
    set_secret(crm, "A", "a")
    wrong = Cipher("ab" * 32)
    with platform.uow() as uow, pytest.raises(VaultError):
        secrets_service.snapshot(uow.session, wrong, "crm")
    assert crm.get("/apps/crm/secrets").json == ["A"]


def test_a_frozen_snapshot_does_not_change_with_the_secret(crm, platform):
    set_secret(crm, "A", "old")
    with platform.uow() as uow:
        secrets_service.freeze(uow.session, platform.cipher, "crm")
    set_secret(crm, "A", "new")
    with platform.uow() as uow:
        assert secrets_service.frozen(uow.session, platform.cipher, "crm") == {"A": "old"}
        secrets_service.freeze(uow.session, platform.cipher, "crm")
        assert secrets_service.frozen(uow.session, platform.cipher, "crm") == {"A": "new"}


def test_uninstalling_deletes_the_secrets(crm, platform):
    set_secret(crm, "A", "a")
    set_secret(crm, "P", "p", "/platform/secrets")
    with platform.uow() as uow:
        secrets_service.freeze(uow.session, platform.cipher, "crm")
    assert crm.delete("/apps/crm").status_code == 200
    with platform.uow() as uow:
        left = uow.session.scalars(text("SELECT key_name FROM trellis.secrets")).all()
    assert left == ["P"]
