"""Secrets at rest: authenticated encryption, digests of tokens."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class VaultError(Exception):
    """A stored secret cannot be decrypted with this key under this name."""


class Cipher:
    """AES-256-GCM bound to the place a value is stored in.

    The associated data is scope, NUL, name, so a row moved to another name does not decrypt.

    Source: REST contract part 30, section 14.3.
    """

    def __init__(self, master_key: str) -> None:
        """Take the master key, 64 hex digits."""
        self._aead = AESGCM(bytes.fromhex(master_key))

    def encrypt(self, scope: str, name: str, plaintext: str) -> tuple[bytes, bytes]:
        """Return a fresh nonce and the ciphertext with its tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._aead.encrypt(nonce, plaintext.encode(), _place(scope, name))

    def decrypt(self, scope: str, name: str, nonce: bytes, ciphertext: bytes) -> str:
        """Return the plaintext.

        Raises:
            VaultError: wrong key, wrong place, or the value was changed.
        """
        try:
            return self._aead.decrypt(nonce, ciphertext, _place(scope, name)).decode()
        except InvalidTag as exc:
            raise VaultError("secret vault error") from exc


def digest(token: str) -> bytes:
    """Return what is stored of a random token: its SHA-256 (32 bytes), which gives nothing away."""
    return hashlib.sha256(token.encode()).digest()


def _place(scope: str, name: str) -> bytes:
    return f"{scope}\0{name}".encode()
