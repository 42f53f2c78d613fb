"""A new master key: old rows stay readable, and are encrypted anew even if that is interrupted."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from app.core import vault
from app.core.crypto import Cipher, VaultError, key_id
from tests.support.up import Up

NEW = "ab" * 32


def stored(platform):
    with platform.uow() as uow:
        return uow.session.execute(
            text("SELECT scope, key_name, key_id, ciphertext FROM trellis.secrets ORDER BY 1, 2")
        ).all()


@pytest.fixture
def filled(platform):
    """Seven secrets with the old key, one of them from before there were key ids."""
    with platform.uow() as uow:
        for number in range(6):
            vault.put(uow.session, platform.cipher, f"app{number % 2}", f"K{number}", f"v{number}")
        vault.put(uow.session, platform.cipher, "_platform", "OLDEST", "v")
        uow.session.execute(
            text("UPDATE trellis.secrets SET key_id = NULL WHERE key_name = 'OLDEST'")
        )
    return platform


def test_an_interrupted_rotation_loses_nothing_and_is_taken_up_again(filled):
    old = filled.settings.auth.master_key
    new = Cipher(NEW, [old])
    with filled.uow() as uow:
        first = vault.rotate(uow.session, new, limit=3)
    assert (first.done, first.unreadable, first.last) == (3, [], ("app0", "K2"))

    def die_in_the_middle():
        with filled.uow() as uow:
            assert vault.rotate(uow.session, new, after=first.last, limit=3).done == 3
            uow.session.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die_in_the_middle()
    ids = [row.key_id for row in stored(filled)]
    assert ids == [new.key_id] * 3 + [key_id(old)] * 4
    with filled.uow() as uow:
        # Both kinds are readable, and a value set meanwhile has the new key.
        assert vault.get_all(uow.session, new, "app0") == {"K0": "v0", "K2": "v2", "K4": "v4"}
        vault.put(uow.session, new, "app0", "K4", "changed")
    up = Up(["secrets", "rotate"], command_env(filled, old))
    assert up.end() == 0, up.log
    assert up.lines[0].startswith("3 secrets were encrypted anew")
    assert {row.key_id for row in stored(filled)} == {new.key_id}
    alone = Cipher(NEW)
    with filled.uow() as uow:
        assert vault.get(uow.session, alone, "_platform", "OLDEST") == "v"
        assert vault.get_all(uow.session, alone, "app0") == {
            **{"K0": "v0", "K2": "v2"},
            "K4": "changed",
        }
        with pytest.raises(VaultError):
            vault.get(uow.session, filled.cipher, "app0", "K0")


def command_env(platform, previous):
    url = platform.settings.database.url
    return {"DATABASE_URL": url, "MASTER_KEY": NEW, "MASTER_KEYS_PREVIOUS": previous}


def test_secrets_of_an_unknown_key_are_named_and_left(filled):
    before = stored(filled)
    up = Up(["secrets", "rotate"], command_env(filled, "cd" * 32))
    assert up.end() == 1
    assert "7 secrets have a key that is neither MASTER_KEY nor in MASTER_KEYS_PREVIOUS" in up.log
    assert "app1/K5" in up.log
    assert stored(filled) == before
    assert "cd" * 8 not in up.log


def test_without_a_key_none_is_made_up(tmp_path):
    up = Up(["secrets", "rotate", "--data-dir", tmp_path / "none"])
    assert up.end() == 1
    assert up.lines[0].startswith("trellis: MASTER_KEY: must be set")
    assert not (tmp_path / "none").exists()
