"""Secrets at rest: authenticated encryption, digests of tokens."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
KEY_ID_CHARS = 16


class VaultError(Exception):
    """A stored secret cannot be decrypted with this key under this name."""


class Cipher:
    """AES-256-GCM bound to the place a value is stored in.

    The associated data is scope, NUL, name, so a row moved to another name does not decrypt.

    Attributes:
        key_id: names the key that new values are encrypted with; tells nothing about it.

    Source: REST contract part 30, section 14.3.
    """

    def __init__(self, master_key: str, previous: Sequence[str] = ()) -> None:
        """Take the keys, 64 hex digits each.

        Args:
            master_key: encrypts, and decrypts what it encrypted.
            previous: keys that only decrypt, until every row has been encrypted anew.
        """
        self.key_id = key_id(master_key)
        self._keys = {key_id(key): AESGCM(bytes.fromhex(key)) for key in (master_key, *previous)}

    def encrypt(self, scope: str, name: str, plaintext: str) -> tuple[bytes, bytes]:
        """Return a fresh nonce and the ciphertext with its tag."""
        nonce = os.urandom(NONCE_BYTES)
        key = self._keys[self.key_id]
        return nonce, key.encrypt(nonce, plaintext.encode(), _place(scope, name))

    def decrypt(
        self, scope: str, name: str, nonce: bytes, ciphertext: bytes, key_id: str | None = None
    ) -> str:
        """Return the plaintext.

        Args:
            scope: as given to ``encrypt``.
            name: as given to ``encrypt``.
            nonce: as ``encrypt`` returned it.
            ciphertext: as ``encrypt`` returned it.
            key_id: names its key; None = not recorded, every key is tried.

        Raises:
            VaultError: wrong key, wrong place, or the value was changed.
        """
        named = self._keys.get(key_id or "")
        for key in self._keys.values() if key_id is None else filter(None, [named]):
            try:
                return key.decrypt(nonce, ciphertext, _place(scope, name)).decode()
            except InvalidTag:
                continue
        raise VaultError("secret vault error")


def key_id(master_key: str) -> str:
    """Return the name of a key: a hash of it, long enough to tell keys apart."""
    digest = hashlib.sha256(b"trellis key id\0" + bytes.fromhex(master_key))
    return digest.hexdigest()[:KEY_ID_CHARS]


def digest(token: str) -> bytes:
    """Return what is stored of a random token: its SHA-256 (32 bytes), which gives nothing away."""
    return hashlib.sha256(token.encode()).digest()


def _place(scope: str, name: str) -> bytes:
    return f"{scope}\0{name}".encode()
