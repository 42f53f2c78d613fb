import pytest

from app.core.crypto import Cipher, VaultError

KEY = "0f" * 32


def test_a_secret_comes_back():
    cipher = Cipher(KEY)
    nonce, sealed = cipher.encrypt("crm", "SMTP_PASS", "grüße")
    assert cipher.decrypt("crm", "SMTP_PASS", nonce, sealed) == "grüße"
    assert "grüße".encode() not in sealed


def test_every_write_has_a_fresh_nonce():
    cipher = Cipher(KEY)
    assert cipher.encrypt("a", "b", "c") != cipher.encrypt("a", "b", "c")


@pytest.mark.parametrize(
    ("scope", "name"), [("crm", "OTHER"), ("hr", "SMTP_PASS"), ("crm\0SMTP", "_PASS")]
)
def test_a_row_moved_elsewhere_does_not_decrypt(scope, name):
    cipher = Cipher(KEY)
    nonce, sealed = cipher.encrypt("crm", "SMTP_PASS", "x")
    with pytest.raises(VaultError, match="^secret vault error$"):
        cipher.decrypt(scope, name, nonce, sealed)


def test_another_master_key_does_not_decrypt():
    nonce, sealed = Cipher(KEY).encrypt("crm", "K", "x")
    with pytest.raises(VaultError):
        Cipher("10" * 32).decrypt("crm", "K", nonce, sealed)


def test_previous_keys_decrypt_but_do_not_encrypt():
    old, new = Cipher(KEY), Cipher("10" * 32, [KEY])
    row = old.encrypt("crm", "K", "x")
    assert new.decrypt("crm", "K", *row, old.key_id) == new.decrypt("crm", "K", *row) == "x"
    assert new.key_id == Cipher("10" * 32).key_id != old.key_id
    with pytest.raises(VaultError):
        old.decrypt("crm", "K", *new.encrypt("crm", "K", "x"))
    with pytest.raises(VaultError):
        new.decrypt("crm", "K", *row, new.key_id)
